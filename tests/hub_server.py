"""A local server that speaks as much of the Hub's protocol as `huggingface_hub` needs to push and load repositories.

Data sets and Spaces are called `datasets/your-name/data` and `spaces/your-name/space`, models by their name alone. It
keeps every commit, knows branches, private repositories, whose name is whose and which token is good, and refuses what
the Hub refuses there. It shows what a client sends and that it loads back; not the Hub's own quotas, its storage
of large files in parts, nor its checks of content beyond the card's metadata.
"""

import base64
import hashlib
import json
import re
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit

from huggingface_hub import ModelCard

OWNER, TOKEN = "your-name", "hf_token_of_your_name"
LARGE_FILES = (".safetensors", ".bin", ".parquet")
REPOSITORY = r"(?P<name>(?:(?:datasets|spaces)/)?[\w.-]+/[\w.-]+)"
DATE = "2026-01-01T00:00:00.000Z"


class Refusal(Exception):
    """An answer that is an error."""

    def __init__(self, status: int, message: str, code: str = ""):
        super().__init__(message)
        self.status, self.code = status, code


@dataclass
class Repository:
    """Branches, the files of every commit, and the messages in order."""

    private: bool = False
    branches: dict[str, str] = field(default_factory=dict)
    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    messages: list[str] = field(default_factory=list)

    def commit(self, branch: str, files: dict[str, bytes], message: str) -> str:
        identity = hashlib.sha1(f"{len(self.commits)} {message}".encode()).hexdigest()
        self.commits[identity], self.branches[branch] = files, identity
        self.messages.append(message)
        return identity

    def resolve(self, revision: str) -> str:
        identity = self.branches.get(revision, revision)
        if identity not in self.commits:
            raise Refusal(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        return identity


class HubServer:
    """Use as a context manager; `environment` is what a client process needs to talk to it."""

    def __init__(self):
        self.repositories: dict[str, Repository] = {}
        self.large_files: dict[str, bytes] = {}
        self.requests: list[str] = []
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._build_handler())
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self.routes: list[tuple[str, str, Callable]] = [
            ("GET", "/api/whoami-v2", self.who_am_i),
            ("POST", "/api/validate-yaml", self.validate_yaml),
            ("POST", "/api/repos/create", self.create),
            ("POST", f"/api/models/{REPOSITORY}/branch/(?P<branch>.+)", self.create_branch),
            ("POST", f"/api/models/{REPOSITORY}/preupload/(?P<revision>.+)", self.announce),
            ("POST", f"/{REPOSITORY}.git/info/lfs/objects/batch", self.prepare_large_files),
            ("PUT", "/large/(?P<digest>[0-9a-f]{64})", self.store_large_file),
            ("POST", f"/api/models/{REPOSITORY}/commit/(?P<revision>.+)", self.commit),
            ("GET", f"/api/models/{REPOSITORY}/tree/(?P<revision>[^/]+)(?:/(?P<folder>.+))?", self.list_tree),
            ("POST", f"/api/models/{REPOSITORY}/paths-info/(?P<revision>[^/]+)", self.describe_paths),
            ("GET", f"/api/models/{REPOSITORY}(?:/revision/(?P<revision>.+))?", self.describe),
            ("GET", f"/{REPOSITORY}/resolve/(?P<revision>[^/]+)/(?P<path>.+)", self.get_file),
        ]

    def __enter__(self):
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_):
        self._server.shutdown()
        self._server.server_close()

    def environment(self, home, token: str | None = TOKEN) -> dict[str, str]:
        values = {"HF_ENDPOINT": self.url, "HF_HOME": str(home), "HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_XET": "1"}
        values |= {"HF_HUB_DISABLE_TELEMETRY": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
        return values | ({"HF_TOKEN": token} if token else {})

    def files(self, name: str, revision: str = "main") -> dict[str, bytes]:
        repository = self.repositories[name]
        return repository.commits[repository.resolve(revision)]

    # What is answered: a document, or bytes with headers. `request` has the body and the token.

    def who_am_i(self, request):
        request.require_token()
        return {"name": OWNER, "type": "user", "orgs": [], "auth": {"accessToken": {"role": "write"}}}

    def validate_yaml(self, request):
        try:
            data = ModelCard(request.json()["content"]).data
        except (ValueError, TypeError, KeyError) as error:
            return {"errors": [{"message": str(error)}], "warnings": []}, {}, 400
        errors = [] if data.license else [{"message": '"license" is missing'}]
        return {"errors": errors, "warnings": []}, {}, 400 if errors else 200

    def create(self, request):
        request.require_token()
        wanted = request.json()
        owner = wanted.get("organization") or OWNER
        kind = wanted.get("type", "model")
        name = f"{'' if kind == 'model' else kind + 's/'}{owner}/{wanted['name']}"
        if owner != OWNER:
            raise Refusal(403, f"You don't have the rights to create a model under the namespace '{owner}'.")
        if name in self.repositories:
            return {"error": "You already created this model repo", "url": f"{self.url}/{name}"}, {}, 409
        repository = self.repositories[name] = Repository(private=wanted.get("visibility") == "private")
        repository.commit("main", {".gitattributes": b""}, "initial commit")
        return {"url": f"{self.url}/{name}", "name": name, "id": name}

    def create_branch(self, request, name, branch):
        repository = self._writable(request, name)
        if branch in repository.branches:
            raise Refusal(409, "Reference already exists")
        repository.branches[branch] = repository.branches["main"]
        return {}

    def announce(self, request, name, revision):
        self._writable(request, name).resolve(revision)
        return {
            "files": [
                {
                    "path": file["path"],
                    "uploadMode": "lfs" if file["path"].endswith(LARGE_FILES) else "regular",
                    "shouldIgnore": False,
                }
                for file in request.json()["files"]
            ]
        }

    def prepare_large_files(self, request, name):
        self._writable(request, name)
        objects = [
            {**entry, "actions": {"upload": {"href": f"{self.url}/large/{entry['oid']}"}}}
            for entry in request.json()["objects"]
        ]
        return {"transfer": "basic", "objects": objects}, {"Content-Type": "application/vnd.git-lfs+json"}, 200

    def store_large_file(self, request, digest):
        if hashlib.sha256(request.body).hexdigest() != digest:
            raise Refusal(400, "the file is not the one that was announced")
        self.large_files[digest] = request.body
        return {}

    def commit(self, request, name, revision):
        repository = self._writable(request, name)
        files, message = dict(repository.commits[repository.resolve(revision)]), ""
        for line in request.body.decode().splitlines():
            entry = json.loads(line)
            kind, value = entry["key"], entry["value"]
            if kind == "header":
                message = value["summary"]
            elif kind == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif kind == "lfsFile":
                files[value["path"]] = self.large_files[value["oid"]]
            elif kind == "deletedFile":
                del files[value["path"]]
            else:
                raise Refusal(400, f"unknown entry {kind}")
        identity = repository.commit(revision, files, message)
        url = f"{self.url}/{name}/commit/{identity}"
        return {"success": True, "commitOid": identity, "commitUrl": url, "hookOutput": ""}

    def list_tree(self, request, name, revision, folder=None):
        entries = self._list_entries(request, name, revision)
        if folder is not None:
            entries = [entry for entry in entries if entry["path"].startswith(folder + "/")]
        if request.query.get("recursive", ["False"]) == ["False"]:
            entries = [entry for entry in entries if entry["path"].rpartition("/")[0] == (folder or "")]
        return entries

    def describe_paths(self, request, name, revision):
        paths = parse_qs(request.body.decode())["paths"]
        return [entry for entry in self._list_entries(request, name, revision) if entry["path"] in paths]

    def _list_entries(self, request, name, revision):
        repository = self._readable(request, name)
        files = repository.commits[repository.resolve(revision)]
        folders = {path.rpartition("/")[0] for path in files} - {""}
        entries = [{"type": "directory", "path": path, "size": 0, "oid": _digest(path.encode())} for path in folders]
        return entries + [
            {"type": "file", "path": path, "size": len(content), "oid": _digest(content)}
            for path, content in files.items()
        ]

    def describe(self, request, name, revision):
        repository = self._readable(request, name)
        identity = repository.resolve(revision or "main")
        siblings = [{"rfilename": path} for path in repository.commits[identity]]
        dates = {"lastModified": DATE, "createdAt": DATE}
        facts = {"_id": name, "id": name, "modelId": name, "sha": identity, "tags": [], "siblings": siblings}
        return {**facts, **dates, "private": repository.private}

    def get_file(self, request, name, revision, path):
        repository = self._readable(request, name)
        identity = repository.resolve(revision)
        if path not in repository.commits[identity]:
            raise Refusal(404, f"no {path}", "EntryNotFound")
        content = repository.commits[identity][path]
        headers = {
            "ETag": f'"{_digest(content)}"',
            "X-Repo-Commit": identity,
            "Content-Type": "application/octet-stream",
        }
        part = re.fullmatch(r"bytes=(\d+)-(\d*)", request.headers.get("Range", ""))
        if part is None:
            return content, headers, 200
        start, end = int(part[1]), int(part[2] or len(content) - 1)
        headers["Content-Range"] = f"bytes {start}-{min(end, len(content) - 1)}/{len(content)}"
        return content[start : end + 1], headers, 206

    def _readable(self, request, name: str) -> Repository:
        repository = self.repositories.get(name)
        if repository is None or (repository.private and not request.has_token()):
            raise Refusal(404, "Repository not found", "RepoNotFound")
        return repository

    def _writable(self, request, name: str) -> Repository:
        request.require_token()
        return self._readable(request, name)

    def _build_handler(hub) -> type[BaseHTTPRequestHandler]:
        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            body = b""
            query: dict[str, list[str]] = {}

            def log_message(self, *_):
                pass

            def json(self):
                return json.loads(self.body)

            def has_token(self) -> bool:
                return self.headers.get("Authorization") == f"Bearer {TOKEN}"

            def require_token(self):
                if not self.has_token():
                    raise Refusal(401, "Invalid username or password.")

            def answer(self):
                self.body = self._read_body()
                self.query = parse_qs(urlsplit(self.path).query)
                path = unquote(urlsplit(self.path).path)
                hub.requests.append(f"{self.command} {path}")
                try:
                    result = self._find_route(path)
                    document, headers, status = result if isinstance(result, tuple) else (result, {}, 200)
                except Refusal as refusal:
                    document, status = {"error": str(refusal)}, refusal.status
                    headers = {"X-Error-Message": str(refusal)} | (
                        {"X-Error-Code": refusal.code} if refusal.code else {}
                    )
                content = document if isinstance(document, bytes) else json.dumps(document).encode()
                self.send_response(status)
                for header, value in {"Content-Type": "application/json", **headers}.items():
                    self.send_header(header, value)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(content)

            def _find_route(self, path: str):
                method = "GET" if self.command == "HEAD" else self.command
                path = re.sub("^/api/(datasets|spaces)/", r"/api/models/\1/", path)
                for route_method, pattern, action in hub.routes:
                    found = re.fullmatch(pattern, path)
                    if method == route_method and found:
                        return action(self, **found.groupdict())
                raise Refusal(404, f"this server does not know {method} {path}")

            def _read_body(self) -> bytes:
                if self.headers.get("Transfer-Encoding") != "chunked":
                    return self.rfile.read(int(self.headers.get("Content-Length") or 0))
                content = b""
                while size := int(self.rfile.readline().strip(), 16):
                    content += self.rfile.read(size)
                    self.rfile.readline()
                self.rfile.readline()
                return content

            do_GET = do_POST = do_PUT = do_HEAD = answer

        return Handler


def _digest(content: bytes) -> str:
    return hashlib.sha1(content).hexdigest()
