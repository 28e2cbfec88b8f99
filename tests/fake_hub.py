"""A hub on this machine: as much of the Hugging Face hub as its own client needs to make a data set and fill it."""

import base64
import hashlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

import yaml

TOKEN = "hf_thisIsTheTokenOfTheTests"


class FakeHub:
    """Attributes: `repositories`, name -> {"private", "files"}; `requests`, (method, path) of all that was asked."""

    def __init__(self):
        self.repositories, self.objects, self.requests = {}, {}, []
        handler = type("Handler", (_Handler,), {"hub": self})
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def close(self):
        self.server.shutdown()
        self.server.server_close()

    def sent(self):
        """Return what was asked for that changes something."""
        return [(method, path) for method, path in self.requests if method != "GET"]


class _Handler(BaseHTTPRequestHandler):
    hub: FakeHub
    protocol_version = "HTTP/1.1"

    def log_message(self, *arguments):
        """Say nothing."""

    def do_GET(self):
        self._take("GET", b"")

    def do_POST(self):
        self._take("POST", self._body())

    def do_PUT(self):
        self._take("PUT", self._body())

    def _body(self):
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        body = b""
        while size := int(self.rfile.readline(), 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return body

    def _take(self, method, body):
        path = urlsplit(self.path).path
        self.hub.requests.append((method, path))
        if method == "PUT":
            name = path.rpartition("/")[2]
            assert hashlib.sha256(body).hexdigest() == name
            self.hub.objects[name] = body
            return self._answer(200, {})
        if method != "GET" and self.headers.get("Authorization") != f"Bearer {TOKEN}":
            return self._answer(401, {"error": "Invalid username or password."})
        if method == "GET":
            return self._info(path.removeprefix("/api/datasets/"))
        return self._post(path, body)

    def _info(self, name):
        repository = self.hub.repositories.get(name)
        if repository is None:
            return self._answer(404, {"error": "Repository not found"}, {"X-Error-Code": "RepoNotFound"})
        siblings = [{"rfilename": file} for file in repository["files"]]
        told = {"id": name, "private": repository["private"], "sha": "0" * 40, "siblings": siblings}
        return self._answer(200, told | {"tags": [], "downloads": 0, "likes": 0})

    def _post(self, path, body):
        if path == "/api/repos/create":
            asked = json.loads(body)
            assert asked["type"] == "dataset"
            name = "/".join(filter(None, (asked["organization"], asked["name"])))
            private = asked.get("visibility") == "private" or asked.get("private", False)
            self.hub.repositories[name] = {"private": private, "files": {}}
            return self._answer(200, {"url": f"{self.hub.url}/datasets/{name}", "name": name})
        if path == "/api/validate-yaml":
            head = yaml.safe_load(json.loads(body)["content"].split("---\n")[1])
            errors = [] if isinstance(head, dict) else [{"message": "no mapping"}]
            return self._answer(400 if errors else 200, {"errors": errors, "warnings": []})
        if path.endswith("/preupload/main"):
            asked = json.loads(body)["files"]
            told = [{"path": each["path"], "uploadMode": _mode(each["path"]), "shouldIgnore": False} for each in asked]
            return self._answer(200, {"files": told})
        if path.endswith("/info/lfs/objects/batch"):
            return self._answer(
                200, {"transfer": "basic", "objects": [*map(self._upload, json.loads(body)["objects"])]}
            )
        if path.endswith("/commit/main"):
            return self._commit(path.removeprefix("/api/datasets/").removesuffix("/commit/main"), body)
        return self._answer(404, {"error": f"this hub does not know {path}"})

    def _upload(self, asked):
        if asked["oid"] in self.hub.objects:
            return asked
        return asked | {"actions": {"upload": {"href": f"{self.hub.url}/objects/{asked['oid']}", "header": {}}}}

    def _commit(self, name, body):
        files = self.hub.repositories[name]["files"]
        for line in map(json.loads, body.splitlines()):
            value = line["value"]
            if line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                files[value["path"]] = self.hub.objects[value["oid"]]
        address = f"{self.hub.url}/datasets/{name}/commit/{'1' * 40}"
        return self._answer(200, {"commitUrl": address, "commitOid": "1" * 40, "hookOutput": ""})

    def _answer(self, status, content, headers=None):
        body = json.dumps(content).encode()
        self.send_response(status)
        for name, value in {"Content-Type": "application/json", **(headers or {})}.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def _mode(path):
    return "lfs" if path.endswith((".zip", ".parquet")) else "regular"
