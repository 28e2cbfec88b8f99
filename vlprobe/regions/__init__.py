"""Image -> boxes and region features: detectors, and published feature files."""
