"""vlprobe: what vision-language models know, at which layer, and whether from the image or from the text."""

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

_HOMES = {
    "Encoder": "vlprobe.encoders.encoder",
    "Example": "vlprobe.types",
    "Features": "vlprobe.types",
    "Hidden": "vlprobe.types",
    "Result": "vlprobe.types",
    "Study": "vlprobe.study",
    "Task": "vlprobe.types",
    "VlprobeError": "vlprobe.errors",
    "extract": "vlprobe.extraction",
    "load_model": "vlprobe.encoders",
    "load_task": "vlprobe.tasks",
    "open_image": "vlprobe.images",
    "read_results": "vlprobe.results",
}
"""Name -> the module it lives in, imported when first asked for: `import vlprobe` loads no torch."""

__all__ = ["__version__", *_HOMES]


def __getattr__(name: str) -> Any:
    """Return a public name, importing its module."""
    if name not in _HOMES:
        raise AttributeError(f"module 'vlprobe' has no attribute '{name}'")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    """List the public names."""
    return sorted(__all__)
