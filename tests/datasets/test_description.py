"""Descriptions and downloads: what a data/*.yaml may say, and that nothing unsafe or unexpected is
unpacked.
"""

from __future__ import annotations

import http.server
import io
import ssl
import tarfile
import threading
import zipfile
from pathlib import Path

import pytest
from dataset_builders import make_voc, make_yolo, put, tree

from engine.config import DataConfig
from engine.datasets.description import load_description
from engine.datasets.prepare import prepare
from engine.datasets.source import read_source_digest
from engine.errors import ConfigError, DataError, EngineError

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("file", sorted((ROOT / "data").glob("*.yaml")), ids=lambda p: p.name)
def test_our_own_descriptions_are_right(file):
    content = load_description(file).content
    assert content.licence and content.homepage and content.obtain and content.names


@pytest.mark.parametrize(
    "text, message",
    [
        ("name: x\nfromat: voc\n", "unknown key 'fromat'. Did you mean 'format'"),
        ("format: voc\n", "name: Field required"),
        ("name: x\nformat: csv\n", "'labelstudio', 'labelme' or 'generated', got 'csv'"),
        ("name: x\nnames: [yes, no]\n", "write 'True' in quotes"),
        ("name: x\nnames: [0, 1]\n", "write '0' in quotes"),
        ("name: x\nnames: [cat, 0123]\n", "write '0123' in quotes"),
        ("name: x\nnames: [12:30]\n", "write '12:30' in quotes"),
        (
            "name: x\npath: a\npath: b\n",
            "line 3: key 'path' is there twice, first in line 2; remove one",
        ),
        ("name: x\nnames: [a, b, a]\n", "each class once: a"),
        ('name: x\nnames: ["\\ud83d"]\n', "half of a surrogate pair"),
        ("name: x\ndigest: abc\n", "64 hex digits"),
        ("name: x\nurl: http://example.org/x.zip\n", "must begin with https://"),
        ("name: x\nurl: https://example.org/x.zip\npath: y\n", "path or url, not both"),
        ("name: x\nformat: generated\n", "`generator:`"),
        ("name: x\nformat: generated\ngenerator: digits\npath: y\n", "neither path nor url"),
        ("- a\n- b\n", "expected `key: value` lines"),
        ("name: [x\n", "not valid YAML"),
        ("name: x\nsplits: {training: a.txt}\n", "splits"),
    ],
)
def test_wrong_descriptions_are_explained(text, message, tmp_path):
    file = put(tmp_path / "d.yaml", text)
    with pytest.raises(ConfigError) as caught:
        load_description(file)
    assert message in str(caught.value) and "d.yaml" in str(caught.value)


def test_names_alone_are_a_data_yaml_too(tmp_path):
    """Its folder works, so it does itself."""
    make_yolo(tmp_path / "set")
    file = put(tmp_path / "set/data.yaml", "names: [cat, dog]\n")
    description = load_description(file)
    assert description.name == "set" and description.content.format == "yolo"
    report = prepare(description, tmp_path / "out", DataConfig())
    assert report.info["names"] == ["cat", "dog"] and report.info["counts"]["val"]["images"] == 1
    elsewhere = put(tmp_path / "mine.yaml", "path: set\nnames: [cat, dog]\n")
    assert load_description(elsewhere).local_folder(DataConfig()) == tmp_path / "set"
    with pytest.raises(ConfigError, match="name: Field required"):
        load_description(put(tmp_path / "set.yaml", "format: voc\nnames: [cat, dog]\n"))


def test_a_folder_whose_name_is_a_number(tmp_path):
    assert folder_of("name: x\npath: 0123\n", tmp_path) == tmp_path / "data/0123"
    text = "train: 2026\npath: 0123\nnames: [cat, dog]\n"
    put(tmp_path / "0123/2026/a.txt", "")
    description = load_description(put(tmp_path / "d.yaml", text))
    assert description.local_folder(DataConfig()) == tmp_path / "0123"


def folder_of(text: str, tmp_path: Path, **settings) -> Path | None:
    return load_description(put(tmp_path / "data/d.yaml", text)).local_folder(
        DataConfig(**settings)
    )


def test_the_address(tmp_path):
    assert folder_of("name: x\npath: ../sets/x\n", tmp_path) == tmp_path / "sets/x"
    assert folder_of("name: x\npath: /abs/x\n", tmp_path) == Path("/abs/x")
    assert folder_of("name: x\npath: ../sets/x\n", tmp_path, path="mine/x") == Path("mine/x")
    assert folder_of("name: x\nurl: https://example.org/x.zip\n", tmp_path) is None
    assert folder_of("name: x\nurl: https://example.org/x.zip\n", tmp_path, path="/mine") == Path(
        "/mine"
    )
    assert folder_of("name: x\nformat: generated\ngenerator: digits\n", tmp_path) is None
    with pytest.raises(
        ConfigError,
        match="neither path nor url. Ask Anna. Then give the folder: -S data.path=FOLDER",
    ):
        folder_of("name: x\nobtain: Ask Anna.\n", tmp_path)
    with pytest.raises(ConfigError, match="is generated, not read; set it to null"):
        folder_of("name: x\nformat: generated\ngenerator: digits\n", tmp_path, path="x")
    with pytest.raises(ConfigError, match="data.options belong to generated datasets"):
        folder_of("name: x\npath: y\n", tmp_path, options={"train": 3})


def test_an_unknown_generator_names_the_nearest(tmp_path):
    file = put(tmp_path / "d.yaml", "name: x\nformat: generated\ngenerator: digit\n")
    with pytest.raises(ConfigError, match="no generator 'digit'. Did you mean 'digits'"):
        prepare(load_description(file), tmp_path / "out", DataConfig())


def test_a_missing_folder_says_so(tmp_path):
    file = put(tmp_path / "d.yaml", "name: x\npath: nowhere\n")
    with pytest.raises(
        DataError, match="nowhere: no such folder; check the path, or get the dataset first"
    ):
        prepare(load_description(file), tmp_path / "out", DataConfig())


# --- downloads ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """(address, answers): an https server on loopback with a certificate made for the occasion;
    path -> answer.
    """
    answers: dict[str, bytes | str] = {}

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            answer = answers.get(self.path)
            if isinstance(answer, str):
                self.send_response(302)
                self.send_header("Location", answer)
            else:
                self.send_response(404 if answer is None else 200)
            self.end_headers()
            if isinstance(answer, bytes):
                self.wfile.write(answer)

        def log_message(self, *args):
            pass

    certificate = _certificate(tmp_path_factory.mktemp("tls"))
    httpd = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    httpd.socket = context.wrap_socket(httpd.socket, server_side=True)
    thread = threading.Thread(target=httpd.serve_forever, daemon=True)
    thread.start()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SSL_CERT_FILE", str(certificate))
        patch.setenv("no_proxy", "127.0.0.1")
        yield f"https://127.0.0.1:{httpd.server_port}", answers
    httpd.shutdown()
    httpd.server_close()
    thread.join()


def _certificate(folder: Path) -> Path:
    import datetime
    import ipaddress

    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "test")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]),
            critical=False,
        )
        .sign(key, hashes.SHA256())
    )
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return put(folder / "both.pem", private + certificate.public_bytes(serialization.Encoding.PEM))


def zipped(files: dict[str, bytes], top: str = "repo-abc/SET/") -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in files.items():
            archive.writestr(top + name, content)
        archive.writestr("repo-abc/README.md", "not part of it")
    return buffer.getvalue()


def tarred(files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for name, content in files.items():
            info = tarfile.TarInfo("repo-abc/SET/" + name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
        link = tarfile.TarInfo("repo-abc/SET/link")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(link)
    return buffer.getvalue()


@pytest.fixture
def fetch(server, tmp_path, monkeypatch):
    """`fetch(answer, **fields)` prepares a description whose url gives `answer`."""
    address, answers = server
    monkeypatch.setenv("DETECTFLOW_STATE", str(tmp_path / "state"))

    def run(answer, url=None, **fields):
        path = f"/{tmp_path.name}/set.zip"
        answers[path] = answer
        lines = {
            "name": "x",
            "url": url or address + path,
            "folder": "repo-abc/SET",
            "obtain": "Ask Anna.",
            **fields,
        }
        file = put(
            tmp_path / "d.yaml", "".join(f"{key}: {value}\n" for key, value in lines.items())
        )
        return prepare(load_description(file), tmp_path / "out", DataConfig())

    return run


@pytest.fixture
def voc(tmp_path):
    return make_voc(tmp_path / "voc")


def downloads(tmp_path: Path) -> list[str]:
    folder = tmp_path / "state/.cache/downloads"
    return (
        [p.name for p in folder.iterdir() if not p.name.endswith(".lock")]
        if folder.exists()
        else []
    )


@pytest.mark.parametrize("pack", [zipped, tarred])
def test_a_download_is_checked_unpacked_and_kept(pack, fetch, voc, tmp_path):
    digest, _ = read_source_digest(load_description(voc), DataConfig(), voc)
    archive = pack(tree(voc))
    first = fetch(archive, digest=digest)
    assert first.info["counts"]["train"]["images"] == 4 and first.info["source_digest"] == digest
    (kept,) = downloads(tmp_path)
    assert tree(tmp_path / "state/.cache/downloads" / kept) == tree(voc)
    assert fetch(None, digest=digest).info == first.info, "the second time nothing is asked for"


def test_wrong_content_is_not_kept(fetch, voc, tmp_path):
    with pytest.raises(
        DataError,
        match="the download's content has digest [0-9a-f]{64}, d.yaml expects 0000.*not kept",
    ):
        fetch(zipped(tree(voc)), digest="'" + "0" * 64 + "'")
    assert downloads(tmp_path) == [] and not (tmp_path / "out").exists()


def test_a_download_that_was_changed_afterwards_is_fetched_anew(fetch, voc, tmp_path):
    digest, _ = read_source_digest(load_description(voc), DataConfig(), voc)
    fetch(zipped(tree(voc)), digest=digest)
    (kept,) = downloads(tmp_path)
    file = tmp_path / "state/.cache/downloads" / kept / "Annotations/a.xml"
    file.write_text(file.read_text().replace(">4<", ">5<"))
    with pytest.raises(DataError, match="was changed; it was removed, run again"):
        fetch(zipped(tree(voc)), digest=digest)
    assert fetch(zipped(tree(voc)), digest=digest).info["source_digest"] == digest


@pytest.mark.parametrize(
    "answer, fields, message",
    [
        (
            None,
            {},
            "the server answers 404 Not Found. Ask Anna. Then give the folder: -S data.path=FOLDER",
        ),
        (b"<html>sorry</html>", {}, "not an archive that can be unpacked"),
        (b"", {}, "not an archive"),
        (zipped({"a": b"1"})[:-30], {}, "not an archive"),
        (zipped({"a": b"1"}), {"folder": "elsewhere"}, "has no folder 'elsewhere'"),
        (zipped({"../../../evil": b"1"}), {}, "would leave its folder"),
        (zipped({"evil": b"1"}, top="/tmp/"), {}, "would leave its folder"),
        (bytes(3 << 20), {"max_download_mb": 2}, "larger than max_download_mb: 2"),
        (zipped({"a": b"1"}), {}, "no annotations found"),
        ("http://127.0.0.1:1/x.zip", {}, "which is not https"),
    ],
    ids=[
        "404",
        "html",
        "empty",
        "cut",
        "no-folder",
        "climbs-out",
        "absolute",
        "too-large",
        "no-data",
        "to-http",
    ],
)
def test_bad_downloads_end_in_one_sentence_and_leave_nothing(
    answer, fields, message, fetch, tmp_path
):
    with pytest.raises(EngineError) as caught:
        fetch(answer, **fields)
    assert message in str(caught.value)
    assert (
        downloads(tmp_path) == []
        and not (tmp_path / "out").exists()
        and not Path("/tmp/evil").exists()
    )


@pytest.mark.parametrize(
    "answer",
    [
        None,
        b"<html>gone</html>",
        zipped({"a": b"1"}),
        zipped({"../../../evil": b"1"}),
        "http://anna:S3CRET@127.0.0.1:1/x.zip",
    ],
    ids=["404", "html", "no-data", "climbs-out", "to-http"],
)
def test_a_password_in_the_address_is_not_shown(answer, server, fetch, tmp_path, caplog):
    caplog.set_level("DEBUG")
    url = f"{server[0].replace('://', '://anna:S3CRET@')}/{tmp_path.name}/set.zip"
    with pytest.raises(EngineError) as caught:
        fetch(answer, url=url)
    assert "S3CRET" not in str(caught.value) + caplog.text and "downloading https" in caplog.text


def test_an_archive_that_unpacks_to_far_more_is_refused(fetch, tmp_path):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("repo-abc/SET/zeros.png", bytes(12 << 20))
    with pytest.raises(DataError, match="unpacks to far more"):
        fetch(buffer.getvalue(), max_download_mb=1)
    assert downloads(tmp_path) == []


def test_without_network_the_message_says_how_to_go_on(fetch):
    with pytest.raises(
        DataError,
        match="cannot be downloaded .*Ask Anna. Then give the folder: -S data.path=FOLDER",
    ) as caught:
        fetch(None, url="https://127.0.0.1:9/x.zip")
    assert isinstance(caught.value.__cause__, OSError), "the flow tries it again"


def test_a_download_is_not_led_inside(fetch):
    with pytest.raises(DataError, match="cannot be downloaded .leads to 169.254.169.254"):
        fetch("https://169.254.169.254/latest/meta-data")


def test_an_unknown_certificate_is_refused(fetch, voc, monkeypatch):
    monkeypatch.delenv("SSL_CERT_FILE")
    with pytest.raises(DataError, match="CERTIFICATE_VERIFY_FAILED"):
        fetch(zipped(tree(voc)))
