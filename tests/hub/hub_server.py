"""A Hugging Face Hub on loopback: as much of its protocol as the unmodified client needs to push and to load.

Repositories of models, datasets and Spaces with commits, branches and private ones; small text goes into commits, all
else by Git LFS, into memory, or by Xet, into a folder, which the client's hf_xet takes for its storage server.
Protocol: huggingface_hub 2.4, https://huggingface.co/docs/hub/api, https://huggingface.co/docs/xet.
"""

import base64
import hashlib
import json
import re
import struct
import threading
import urllib.parse
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NamedTuple

TOKEN, USER = "hf_test_token", "tester"
DATE = "2026-01-01T00:00:00.000Z"


class Refusal(Exception):
    """An answer other than success: its HTTP status, and the Hub's code for it, which the client turns into errors."""

    def __init__(self, status: int, message: str, code: str = ""):
        super().__init__(message)
        self.status, self.code = status, code


class File(NamedTuple):
    """A file of a commit; `sha256` only if it came by LFS or Xet, and then by Xet if it has a `xet_hash`."""

    content: bytes
    size: int
    sha256: str | None = None
    xet_hash: str | None = None

    @property
    def oid(self) -> str:
        """Git's name of what the repository holds: of the file, or of the LFS pointer to it."""
        pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{self.sha256}\nsize {self.size}\n"
        blob = pointer.encode() if self.sha256 else self.content
        return hashlib.sha1(b"blob %d\0" % len(blob) + blob).hexdigest()

    def listed(self, path: str) -> dict[str, Any]:
        entry = {"type": "file", "path": path, "size": self.size, "oid": self.oid}
        if self.sha256:
            entry["lfs"] = {"oid": self.sha256, "size": self.size, "pointerSize": 134}
        return entry


class Repository:
    def __init__(self, name: str, private: bool):
        self.name, self.private = name, private
        self.commits: dict[str, dict[str, File]] = {}
        self.branches: dict[str, str] = {}
        self.commit("main", {})

    def commit(self, branch: str, files: dict[str, File]) -> str:
        content = [len(self.commits), *sorted((path, file.oid) for path, file in files.items())]
        commit = hashlib.sha1(json.dumps(content).encode()).hexdigest()
        self.commits[commit] = files
        self.branches[branch] = commit
        return commit

    def resolve(self, revision: str | None) -> str:
        commit = self.branches.get(revision or "main", revision)
        if commit not in self.commits:
            raise Refusal(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        return commit


class Hub:
    """The state of the server.

    Set `refuse_commits` to have it break down at the end of every push, and `dies_at_commit` to have it die there.

    Args:
        store: an empty folder for what comes by Xet.
    """

    def __init__(self, store: Path):
        self.repositories: dict[tuple[str, str], Repository] = {}
        self.store = store
        self.uploads: dict[str, bytes] = {}  # by LFS, by sha256
        self.requests: list[str] = []
        self.messages: list[str] = []  # of commits
        self.refuse_commits = self.dies_at_commit = False
        self.lock = threading.RLock()

    @property
    def store_address(self) -> str:
        return f"local://{self.store}"

    def stored(self) -> dict[str, tuple[str, int]]:
        """Of each file that came by Xet its hash there and its bytes, by sha256."""
        shards = self.store.glob("xet/xorbs/shards/*.mdb")
        return {
            sha256: (xet_hash, size) for shard in shards for sha256, xet_hash, size in read_shard(shard.read_bytes())
        }


_FAR_FUTURE = 4_000_000_000  # seconds since 1970
_RECORD, _HAS_VERIFICATION, _HAS_SHA256 = 48, 1 << 31, 1 << 30


def read_shard(shard: bytes) -> Iterator[tuple[str, str, int]]:
    """The files that a shard, Xet's index of what was uploaded, lists: sha256, Xet's hash, and bytes."""

    def hash_at(place: int) -> str:
        return "".join(f"{part:016x}" for part in struct.unpack_from("<4Q", shard, place))

    place = _RECORD  # after the header
    while shard[place : place + 32] != b"\xff" * 32:
        xet_hash, (flags, segments) = hash_at(place), struct.unpack_from("<II", shard, place + 32)
        sizes = [struct.unpack_from("<I", shard, place + (1 + i) * _RECORD + 36)[0] for i in range(segments)]
        place += _RECORD * (1 + segments * (2 if flags & _HAS_VERIFICATION else 1))
        if flags & _HAS_SHA256:
            yield hash_at(place), xet_hash, sum(sizes)
            place += _RECORD


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: Hub

    def log_message(self, *_: Any) -> None:
        pass

    def answer(self, content: Any = b"", status: int = 200, headers: dict[str, str] | None = None) -> None:
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        kind = "application/octet-stream" if isinstance(content, bytes) else "application/json"
        self.send_response(status)
        for name, value in {"Content-Type": kind, "Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def read_body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        chunks = []
        while size := int(self.rfile.readline(), 16):
            chunks.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(chunks)

    def handle_request(self) -> None:
        address = urllib.parse.urlsplit(self.path)
        self.query = dict(urllib.parse.parse_qsl(address.query, keep_blank_values=True))
        self.body = self.read_body()
        self.hub.requests.append(f"{self.command} {address.path}")
        try:
            with self.hub.lock:
                for methods, pattern, respond in ROUTES:
                    if self.command in methods and (match := re.fullmatch(pattern, urllib.parse.unquote(address.path))):
                        respond(self, **match.groupdict())
                        return
            raise Refusal(404, f"no route for {self.command} {address.path}")
        except Refusal as refusal:
            headers = {"X-Error-Message": str(refusal)} | ({"X-Error-Code": refusal.code} if refusal.code else {})
            self.answer({"error": str(refusal)}, refusal.status, headers)

    do_GET = do_HEAD = do_POST = do_PUT = handle_request

    @property
    def base(self) -> str:
        return f"http://{self.headers['Host']}"

    def is_user(self) -> bool:
        token = self.headers.get("Authorization", "").removeprefix("Bearer ")
        if token not in ("", TOKEN):
            raise Refusal(401, "Invalid credentials in Authorization header")
        return bool(token)

    def repository(self, kind: str, name: str, *, write: bool = False) -> Repository:
        repository = self.hub.repositories.get((kind, name))
        if repository is None or ((repository.private or write) and not self.is_user()):
            raise Refusal(404 if self.is_user() else 401, "Repository not found", "RepoNotFound")
        return repository

    def whoami(self) -> None:
        if not self.is_user():
            raise Refusal(401, "Invalid username or password.")
        self.answer({"type": "user", "id": "0", "name": USER, "fullname": USER, "orgs": []})

    def create(self) -> None:
        if not self.is_user():
            raise Refusal(401, "Invalid username or password.")
        wish = json.loads(self.body)
        kind, name = wish.get("type") or "model", f"{wish.get('organization') or USER}/{wish['name']}"
        address = {"url": f"{self.base}/{'' if kind == 'model' else kind + 's/'}{name}", "name": name, "id": name}
        if (kind, name) in self.hub.repositories:
            self.answer(address, 409, {"X-Error-Message": "You already created this repo"})
            return
        if kind == "space" and not wish.get("sdk"):
            raise Refusal(400, "a Space needs an sdk")
        private = wish.get("private") is True or wish.get("visibility") == "private"
        self.hub.repositories[kind, name] = Repository(name, private)
        self.answer(address)

    def create_branch(self, kind: str, name: str, branch: str) -> None:
        repository = self.repository(kind, name, write=True)
        if branch in repository.branches:
            raise Refusal(409, "Reference already exists")
        repository.branches[branch] = repository.resolve(json.loads(self.body or b"{}").get("startingPoint"))
        self.answer({})

    def describe(self, kind: str, name: str, revision: str | None = None) -> None:
        repository = self.repository(kind, name)
        commit = repository.resolve(revision)
        files = [{"rfilename": path} for path in sorted(repository.commits[commit])]
        known = {"id": name, "sha": commit, "private": repository.private, "lastModified": DATE, "createdAt": DATE}
        self.answer(
            {**known, "siblings": files, "tags": [], "downloads": 0, "likes": 0, "gated": False, "disabled": False}
        )

    def list_tree(self, kind: str, name: str, revision: str, path: str) -> None:
        repository = self.repository(kind, name)
        files = repository.commits[repository.resolve(revision)]
        below = f"{path.strip('/')}/" if path.strip("/") else ""
        inside = {full: file for full, file in sorted(files.items()) if full.startswith(below)}
        if below and not inside:
            raise Refusal(404, f"{path} does not exist", "EntryNotFound")
        deep = self.query.get("recursive", "").lower() in ("true", "1")
        shown = [file.listed(full) for full, file in inside.items() if deep or "/" not in full[len(below) :]]
        folders = {below + full[len(below) :].split("/")[0] for full in inside if "/" in full[len(below) :]}
        self.answer([*({"type": "directory", "path": f, "size": 0, "oid": "0" * 40} for f in sorted(folders)), *shown])

    def list_paths(self, kind: str, name: str, revision: str) -> None:
        repository = self.repository(kind, name)
        files = repository.commits[repository.resolve(revision)]
        wish = json.loads(self.body) if self.body[:1] == b"{" else urllib.parse.parse_qs(self.body.decode())
        self.answer([files[path].listed(path) for path in wish["paths"] if path in files])

    def preupload(self, kind: str, name: str, revision: str) -> None:
        commit = self.repository(kind, name, write=True).resolve(revision)
        answers = []
        for file in json.loads(self.body)["files"]:
            binary = b"\0" in base64.b64decode(file.get("sample", ""))
            mode = "lfs" if binary or file["path"].endswith((".safetensors", ".parquet")) else "regular"
            answers.append({"path": file["path"], "uploadMode": mode, "shouldIgnore": False})
        self.answer({"files": answers, "commitOid": commit})

    def negotiate_uploads(self, kind: str | None, name: str) -> None:
        self.repository((kind or "models/")[:-2], name, write=True)
        objects = []
        for wanted in json.loads(self.body)["objects"]:
            missing = wanted["oid"] not in self.hub.uploads
            actions = {"upload": {"href": f"{self.base}/lfs/{wanted['oid']}"}}
            objects.append({**wanted, **({"actions": actions} if missing else {})})
        self.answer({"transfer": "basic", "objects": objects})

    def upload(self, sha256: str) -> None:
        if hashlib.sha256(self.body).hexdigest() != sha256:
            raise Refusal(400, "the content is not that of this sha256")
        self.hub.uploads[sha256] = self.body
        self.answer()

    def give_xet_token(self, kind: str, name: str, use: str) -> None:
        self.repository(kind, name, write=use == "write")
        access = {"casUrl": self.hub.store_address, "accessToken": "xet", "exp": _FAR_FUTURE}
        names = ("X-Xet-Cas-Url", "X-Xet-Access-Token", "X-Xet-Token-Expiration")
        self.answer(access, headers=dict(zip(names, map(str, access.values()), strict=True)))

    def commit(self, kind: str, name: str, revision: str) -> None:
        repository = self.repository(kind, name, write=True)
        if self.hub.refuse_commits:
            raise Refusal(503, "out of order")
        if self.hub.dies_at_commit:
            self.server.shutdown()
            self.server.server_close()
            self.close_connection = True  # without an answer
            return
        self.hub.messages.append(json.loads(self.body.splitlines()[0])["value"]["summary"])
        stored = self.hub.stored()
        files = dict(repository.commits[repository.resolve(revision)])
        for line in self.body.splitlines()[1:]:
            operation = json.loads(line)
            value = operation["value"]
            if operation["key"] == "file":
                content = base64.b64decode(value["content"])
                files[value["path"]] = File(content, len(content))
            elif operation["key"] == "lfsFile":
                sha256, content = value["oid"], self.hub.uploads.get(value["oid"], b"")
                if sha256 not in self.hub.uploads and sha256 not in stored:
                    raise Refusal(400, f"{value['path']} was never uploaded")
                xet_hash, size = stored.get(sha256, (None, len(content)))
                files[value["path"]] = File(content, size, sha256, xet_hash)
            elif operation["key"] == "deletedFile":
                files.pop(value["path"], None)
        commit = repository.commit(revision, files)
        self.answer({"success": True, "commitOid": commit, "commitUrl": f"{self.base}/{name}/commit/{commit}"})

    def download(self, kind: str | None, name: str, revision: str, path: str) -> None:
        repository = self.repository((kind or "models/")[:-2], name)
        commit = repository.resolve(revision)
        file = repository.commits[commit].get(path)
        if file is None:
            raise Refusal(404, "Entry not found", "EntryNotFound")
        headers = {"X-Repo-Commit": commit, "ETag": f'"{file.oid}"', "Accept-Ranges": "bytes"}
        if not file.sha256:
            self.answer(file.content, headers=headers)
            return
        # The client takes size and hash from a redirect only if it leads to another host.
        port = self.server.server_address[1]
        headers |= {"X-Linked-Etag": f'"{file.sha256}"', "X-Linked-Size": str(file.size)}
        headers |= {"Location": f"http://localhost:{port}/lfs/{file.sha256}"}
        if file.xet_hash:
            token = f"{self.base}/api/{kind or 'models/'}{name}/xet-read-token/{commit}"
            headers |= {"X-Xet-Hash": file.xet_hash, "Link": f'<{token}>; rel="xet-auth"'}
        self.answer(status=302, headers=headers)

    def download_upload(self, sha256: str) -> None:
        self.answer(self.hub.uploads[sha256], headers={"ETag": f'"{sha256}"'})

    def accept_card(self) -> None:
        self.answer({"errors": [], "warnings": []})


_REPO = r"/api/(?P<kind>model|dataset|space)s/(?P<name>[^/]+/[^/]+)"
_PLAIN = r"/(?P<kind>datasets/|spaces/)?(?P<name>[^/]+/[^/]+)"
ROUTES: list[tuple[set[str], str, Callable[..., None]]] = [
    ({"GET"}, r"/api/whoami-v2", Handler.whoami),
    ({"POST"}, r"/api/repos/create", Handler.create),
    ({"POST"}, r"/api/validate-yaml", Handler.accept_card),
    ({"GET"}, _REPO, Handler.describe),
    ({"GET"}, _REPO + r"/revision/(?P<revision>[^/]+)", Handler.describe),
    ({"GET"}, _REPO + r"/tree/(?P<revision>[^/]+)/?(?P<path>.*)", Handler.list_tree),
    ({"POST"}, _REPO + r"/paths-info/(?P<revision>[^/]+)", Handler.list_paths),
    ({"POST"}, _REPO + r"/branch/(?P<branch>[^/]+)", Handler.create_branch),
    ({"POST"}, _REPO + r"/preupload/(?P<revision>[^/]+)", Handler.preupload),
    ({"POST"}, _REPO + r"/commit/(?P<revision>[^/]+)", Handler.commit),
    ({"GET"}, _REPO + r"/xet-(?P<use>read|write)-token/.+", Handler.give_xet_token),
    ({"POST"}, _PLAIN + r"\.git/info/lfs/objects/batch", Handler.negotiate_uploads),
    ({"PUT"}, r"/lfs/(?P<sha256>\w{64})", Handler.upload),
    ({"GET", "HEAD"}, r"/lfs/(?P<sha256>\w{64})", Handler.download_upload),
    ({"GET", "HEAD"}, _PLAIN + r"/resolve/(?P<revision>[^/]+)/(?P<path>.+)", Handler.download),
]


@contextmanager
def serve(hub: Hub) -> Iterator[str]:
    """Serves a Hub on a free port of this machine, and gives its address."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("BoundHandler", (Handler,), {"hub": hub}))
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
