"""A stand-in of the Hugging Face hub on this machine: what its client asks for to send and to get."""

import base64
import contextlib
import hashlib
import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

TOKEN, COMMIT = "hf_" + "a" * 34, "c" * 40


class Hub(ThreadingHTTPServer):
    """Repositories by id: `private` and `files` by name. A path with a part of `refuses` gets its status."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.repositories, self.objects, self.refuses, self.asked = {}, {}, {}, []

    def environment(self, home):
        """Variables of a process whose hub this is, with its token and an empty cache."""
        return {"HF_ENDPOINT": self.address, "HF_TOKEN": TOKEN, "HF_HOME": str(home), "HF_HUB_OFFLINE": "0"}

    @property
    def address(self):
        return f"http://127.0.0.1:{self.server_address[1]}"


class _Handler(BaseHTTPRequestHandler):
    server: Hub

    def log_message(self, *_):
        pass

    def do_POST(self):
        path, body = urlsplit(self.path).path, self._body()
        if not self._allowed(path):
            return
        if path == "/api/repos/create":
            asked = json.loads(body)
            name = f"{asked['organization']}/{asked['name']}"
            known = name in self.server.repositories
            self.server.repositories.setdefault(name, {"private": asked.get("private"), "files": {}})
            self._json({"url": f"{self.server.address}/{name}"}, status=409 if known else 200)
        elif path == "/api/validate-yaml":
            self._json({"errors": [], "warnings": []})
        elif found := re.fullmatch(r"/api/models/(.+)/preupload/main", path):
            files = [file["path"] for file in json.loads(body)["files"]]
            modes = [{"path": file, "uploadMode": _mode(file), "shouldIgnore": False} for file in files]
            self._json({"files": modes})
        elif path.endswith(".git/info/lfs/objects/batch"):
            objects = [self._upload(entry) for entry in json.loads(body)["objects"]]
            self._json({"transfer": "basic", "objects": objects})
        elif found := re.fullmatch(r"/api/models/(.+)/commit/main", path):
            self._commit(self.server.repositories[found[1]]["files"], body)
            address = f"{self.server.address}/{found[1]}/commit/{COMMIT}"
            self._json({"commitUrl": address, "commitOid": COMMIT, "success": True})
        else:
            self._json({"error": path}, status=404)

    def do_PUT(self):
        body = self._body()
        self.server.objects[hashlib.sha256(body).hexdigest()] = body
        self._json({})

    def do_HEAD(self):
        self.do_GET()

    def do_GET(self):
        path = urlsplit(self.path).path
        if not self._allowed(path):
            return
        found = re.fullmatch(r"/([^/]+/[^/]+)/resolve/[^/]+/(.+)", path)
        if not found:
            known = re.fullmatch(r"/api/models/([^/]+/[^/]+)(/.*)?", path)
            if known and known[1] in self.server.repositories:
                self._json({"id": known[1], "sha": COMMIT, "siblings": []})
            else:
                self._send(b"", status=404, headers={"X-Error-Code": "RepoNotFound"})
            return
        repository = self.server.repositories.get(found[1])
        if repository is None or found[2] not in repository["files"]:
            code = "RepoNotFound" if repository is None else "EntryNotFound"
            self._send(b"", status=404, headers={"X-Error-Code": code, "X-Repo-Commit": COMMIT})
            return
        content = repository["files"][found[2]]
        etag = hashlib.sha256(content).hexdigest()
        self._send(content, headers={"ETag": f'"{etag}"', "X-Repo-Commit": COMMIT})

    def _allowed(self, path):
        self.server.asked.append(path)
        given = self.headers.get("Authorization") == f"Bearer {TOKEN}"
        status = next((s for part, s in self.server.refuses.items() if part in path), 200 if given else 401)
        if status != 200:
            self._json({"error": "refused by the test"}, status=status)
        return status == 200

    def _upload(self, entry):
        actions = {"upload": {"href": f"{self.server.address}/objects/{entry['oid']}"}}
        return {"oid": entry["oid"], "size": entry["size"], "actions": actions}

    def _commit(self, files, body):
        for line in map(json.loads, body.splitlines()):
            value = line["value"]
            if line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                files[value["path"]] = self.server.objects[value["oid"]]

    def _body(self):
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def _json(self, content, status=200):
        self._send(json.dumps(content).encode(), status=status, headers={"Content-Type": "application/json"})

    def _send(self, content, *, headers, status=200):
        self.send_response(status)
        for name, value in (headers | {"Content-Length": str(len(content))}).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)


def _mode(file):
    return "lfs" if file.endswith((".safetensors", ".stablehlo")) else "regular"


@contextlib.contextmanager
def serving():
    """Run a hub while the block runs."""
    with Hub() as hub:
        thread = threading.Thread(target=hub.serve_forever, daemon=True)
        thread.start()
        try:
            yield hub
        finally:
            hub.shutdown()
            thread.join()
