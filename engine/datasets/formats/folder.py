"""The files of one dataset folder, listed once: found by path, by the end of a path, or by name
without suffix.

Names are relative to the folder, with `/`. A path taken from an annotation is only ever looked up
in this list, so no annotation can reach a file outside. Links are followed unless they lead back
into themselves; those that lead out of the folder are counted, and a policy may forget them.
"""

from __future__ import annotations

import codecs
import contextlib
import os
import re
import unicodedata
from collections import defaultdict
from collections.abc import Callable, Iterator
from functools import cached_property
from pathlib import Path, PurePosixPath
from urllib.parse import unquote

from engine.datasets.findings import Findings
from engine.datasets.formats.base import MAX_STREAMED_BYTES, MAX_WHOLE_BYTES, shown
from engine.errors import DataError
from engine.files import open_regular

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp"})
UNREAD_SUFFIXES = (
    ".heic",
    ".heif",
    ".avif",
    ".gif",
    ".jp2",
    ".jxl",
    ".dng",
    ".cr2",
    ".nef",
    ".arw",
    ".tga",
    ".ppm",
    ".pgm",
)
CHUNK_BYTES, HEAD_BYTES = 1 << 16, 1 << 14
IGNORED_FOLDERS = {"__MACOSX"}  # and everything that begins with a dot

UPLOAD_PREFIX = re.compile(r"[0-9a-f]{8}-(?=.)")  # Label Studio puts it before the names of uploads

# An object of DVC's cache, called by its hash: where no other link is possible, `dvc add` leaves
# such links in the dataset.
_STORED_CONTENT = re.compile(r"/files/md5/[0-9a-f]{2}/[0-9a-f]{30}$")


class Folder:
    """Every file below `root` that does not begin with a dot. `loops` are links to folders that
    were not followed.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.loops: list[str] = []
        self.outside: list[
            str
        ] = []  # links, to files or to folders (with a final /), that lead out; not to DVC's cache
        self._paths: dict[str, Path] = {}
        try:
            self._list(root, "", ())
        except NotADirectoryError:
            raise DataError(
                f"{root}: not a folder; give the folder that holds the labelled images"
            ) from None
        except FileNotFoundError:
            raise DataError(
                f"{root}: no such folder; check the path, or get the dataset first"
            ) from None
        except OSError as error:
            raise DataError(
                f"{error.filename or root}: cannot be listed ({error.strerror}); check its "
                "permissions"
            ) from None
        self.files = tuple(sorted(self._paths))

    def _list(self, folder: Path, prefix: str, above: tuple[tuple[int, int], ...]) -> None:
        stat = folder.stat()
        here = (stat.st_dev, stat.st_ino)
        if here in above:
            self.loops.append(prefix.rstrip("/"))
            return
        with os.scandir(folder) as entries:
            for entry in sorted(entries, key=lambda entry: entry.name):
                if entry.name.startswith(".") or entry.name in IGNORED_FOLDERS:
                    continue
                name = prefix + _readable(entry.name)
                is_folder = _is_folder(entry)
                if entry.is_symlink() and self._leads_out(entry):
                    self.outside.append(name + "/" if is_folder else name)
                if is_folder:
                    self._list(Path(entry.path), name + "/", (*above, here))
                else:
                    self._paths[name if name not in self._paths else f"{name}~"] = Path(entry.path)

    def _leads_out(self, link: os.DirEntry) -> bool:
        try:
            target = Path(link.path).resolve(strict=True)
            return not (
                target.is_relative_to(self.root.resolve())
                or _STORED_CONTENT.search(target.as_posix())
            )
        except (OSError, RuntimeError):  # leads nowhere, or in a circle: a file that cannot be read
            return False

    @cached_property
    def images(self) -> tuple[str, ...]:
        return tuple(
            name for name in self.files if PurePosixPath(name).suffix.lower() in IMAGE_SUFFIXES
        )

    def with_suffix(self, *suffixes: str) -> list[str]:
        return [name for name in self.files if PurePosixPath(name).suffix.lower() in suffixes]

    def __contains__(self, name: str) -> bool:
        return name in self._paths

    def path(self, name: str) -> Path:
        return self._paths[name]

    def read(self, name: str) -> bytes:
        """The bytes of an annotation file.

        Raises:
            ValueError: it cannot be read, or is far too large; the text says so.
        """
        try:
            path = self._paths[name]
            if path.stat().st_size > MAX_WHOLE_BYTES:
                raise ValueError(
                    f"larger than {MAX_WHOLE_BYTES >> 20} MiB, which no such file should be"
                )
            with open_regular(path) as file:
                return file.read()
        except OSError as error:
            raise ValueError(f"cannot be read ({error.strerror})") from None

    def chunks(self, name: str) -> Iterator[bytes]:
        """`read` in pieces, for files that are better not held whole."""
        size = 0
        try:
            with open_regular(self._paths[name]) as file:
                while chunk := file.read(CHUNK_BYTES):
                    size += len(chunk)
                    if size > MAX_STREAMED_BYTES:
                        raise ValueError(
                            f"larger than {MAX_STREAMED_BYTES >> 30} GiB, which no annotation "
                            "file should be"
                        )
                    yield chunk
        except OSError as error:
            raise ValueError(f"cannot be read ({error.strerror})") from None

    def head(self, name: str) -> bytes:
        """The first bytes of a file, b"" where it cannot be read: enough to see what it is."""
        try:
            with open_regular(self._paths[name]) as file:
                return file.read(HEAD_BYTES)
        except OSError:
            return b""

    def text(self, name: str) -> str:
        """The text of an annotation file: UTF-8, with or without byte order mark. ValueError as for
        `read`.
        """
        try:
            return self.read(name).decode("utf-8-sig")
        except UnicodeDecodeError as error:
            raise ValueError(f"not UTF-8 text (byte {error.start}); save it as UTF-8") from None

    def list_text(self, name: str) -> str:
        """The text of a list of files, which people also make with `dir >` or PowerShell's: UTF-16
        that says so at its beginning, else as `text`.
        """
        data = self.read(name)
        if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
            with contextlib.suppress(UnicodeDecodeError):
                return data.decode("utf-16")
        return self.text(name)

    # Looking up images ----------------------------------------------------------------------------

    @cached_property
    def _by_tail(self) -> dict[str, list[str]]:
        """The end of a path ("c.jpg", "b/c.jpg", ...) -> the images whose path ends so."""
        found: dict[str, list[str]] = defaultdict(list)
        for name in self.images:
            for tail in tails(name):
                found[_key(tail)].append(name)
        return found

    @cached_property
    def _by_stem(self) -> dict[str, list[str]]:
        """The same without suffix."""
        found: dict[str, list[str]] = defaultdict(list)
        for name in self.images:
            for tail in tails(name):
                found[_key(without_suffix(tail))].append(name)
        return found

    def images_ending(self, tail: str) -> list[str]:
        """Images whose path ends with `tail`; whole path parts only."""
        return self._by_tail.get(_key(tail), [])

    def images_with_stem(self, stem: str) -> list[str]:
        """Images whose path without suffix ends with `stem`."""
        return self._by_stem.get(_key(stem), [])

    @cached_property
    def _by_spelling(self) -> dict[str, list[str]]:
        """`spelling` of the name without folders, with and without suffix -> the images of it."""
        found: dict[str, list[str]] = defaultdict(list)
        for name in self.images:
            base = base_name(name)
            for key in {spelling(base), spelling(without_suffix(base))}:
                found[key].append(name)
        return found

    @cached_property
    def _folders(self) -> set[str]:
        """The end of the path of every folder that holds a file, in it or below."""
        places = {name.rpartition("/")[0] for name in self.files}
        return {_key(tail) for place in places for end in _above(place) for tail in tails(end)}

    def images_renamed(self, tail: str) -> list[str]:
        """Images that the path `tail`, which none has, may stand for, with or without its suffix:
        those of its name where it is the folders that are not there, else those whose name differs
        only as tools change names (`spelling`).
        """
        place, _, name = tail.rpartition("/")
        if place and _key(place) not in self._folders and (moved := self.images_ending(name)):
            return moved
        key = _key(name)
        return [
            image
            for image in self._by_spelling.get(spelling(name), ())
            # one of this very name lies in another folder, and this one's is there
            if key not in (_key(base_name(image)), _key(without_suffix(base_name(image))))
        ]

    @cached_property
    def _by_folded(self) -> dict[str, str]:
        """The name of a file without its folders, in lower case -> the first such file."""
        found: dict[str, str] = {}
        for name in self.files:
            found.setdefault(base_name(name).casefold(), name)
        return found

    def looks_like(self, tail: str) -> str:
        """A hint for a missing image: what is there under nearly that name, or an empty string."""
        near = self._by_folded.get(base_name(tail).casefold())
        if near is None:
            return ""
        if PurePosixPath(near).suffix.lower() not in IMAGE_SUFFIXES:
            return f"; {near} is, but images are {' '.join(sorted(IMAGE_SUFFIXES))}"
        same = _key(base_name(near)) == _key(base_name(tail))
        return f"; there is {near}: " + (
            "in another folder" if same else "upper and lower case matter"
        )

    @cached_property
    def _unread(self) -> dict[str, str]:
        """Name without folders and suffix -> the first file of that name in one of the formats that
        are not read.
        """
        files = self.with_suffix(*UNREAD_SUFFIXES)
        return {base_name(without_suffix(name)): name for name in reversed(files)}

    def unread_image(self, stem: str) -> str:
        """A hint for an image of any suffix that is missing: it is there in a format that is not
        read; or an empty string.
        """
        near = self._unread.get(base_name(stem))
        return (
            f"; {near} is there, but images are {' '.join(sorted(IMAGE_SUFFIXES))}" if near else ""
        )

    def find_image(
        self,
        findings: Findings,
        file: str,
        text: str,
        line: int | None = None,
        *,
        what: str,
        prefer: Callable[[list[str]], list[str]] = list,
    ) -> str | None:
        """The image that an annotation in `file` calls `text`: by the end of its path. None after a
        finding.

        what: how the format calls that entry. prefer: of several images, those to be taken first.
        """
        tail = inside(text)
        if tail is None:
            if (
                findings.add(
                    "outside_folder", file, f"{what} {shown(text)} leaves the dataset folder", line
                )
                != "fix"
            ):
                return None
            tail = base_name(text)
        names = self.images_ending(tail)
        if not names and PurePosixPath(tail).suffix.lower() not in IMAGE_SUFFIXES:
            names = self.images_with_stem(tail)  # CVAT calls the frames of a video without suffix
        if not names and len(renamed := prefer(self.images_renamed(tail))) == 1:
            detail = f"image {shown(text)} is not there; {renamed[0]} is the only one that fits"
            return (
                renamed[0] if findings.add("renamed_image", file, detail, line) == "fix" else None
            )
        if len(names) > 1:
            names = prefer(names)
        if not names:
            findings.add(
                "missing_image",
                file,
                f"image {shown(text)} is not there{self.looks_like(tail)}",
                line,
            )
            return None
        if (
            len(names) > 1
            and findings.add(
                "ambiguous_image", file, f"{what} {shown(text)} fits {names[:4]}", line
            )
            != "fix"
        ):
            return None
        return names[0]

    def report_links(self, findings: Findings) -> None:
        """Say which links were not followed, and forget those out of the folder where the policy
        says so. Call once.
        """
        for name in self.loops:
            findings.add("link_loop", name, "leads back to a folder above it")
        for link in self.outside:
            if (
                findings.add("link_outside", link.rstrip("/"), "leads out of the dataset folder")
                == "drop"
            ):
                gone = [
                    name
                    for name in self._paths
                    if name == link or (link.endswith("/") and name.startswith(link))
                ]
                for name in gone:
                    del self._paths[name]
        self.files = tuple(sorted(self._paths))
        for listing in (
            "images",
            "_by_tail",
            "_by_stem",
            "_by_spelling",
            "_folders",
            "_by_folded",
            "_unread",
        ):  # made of what was there before
            self.__dict__.pop(listing, None)


def tails(name: str) -> list[str]:
    """`"a/b/c.jpg"` -> ["c.jpg", "b/c.jpg", "a/b/c.jpg"]."""
    parts = name.split("/")
    return ["/".join(parts[i:]) for i in range(len(parts) - 1, -1, -1)]


def _above(place: str) -> list[str]:
    """`"a/b"` -> ["a", "a/b"]."""
    parts = place.split("/") if place else []
    return ["/".join(parts[: i + 1]) for i in range(len(parts))]


def spelling(name: str) -> str:
    """What is the same in all spellings of a file name that tools make: percent-encoding, the eight
    digits that Label Studio puts before the name of an upload, and what its web framework does to
    that name: blanks become `_`, and what is no letter, digit, `.`, `-` or `_` goes.
    """
    bare = UPLOAD_PREFIX.sub("", _key(unquote(name)).strip(), count=1)
    return re.sub(r"[^-\w.]", "", bare.replace(" ", "_"))


def without_suffix(name: str) -> str:
    suffix = PurePosixPath(name).suffix
    return name[: -len(suffix)] if suffix else name


def inside(text: str) -> str | None:
    """A path from an annotation, with `/` and without `./`; None if it is absolute or climbs out of
    its folder.
    """
    text = text.strip().replace("\\", "/")
    if text.startswith("/") or re.match("[A-Za-z]:/", text):
        return None
    parts = [part for part in text.split("/") if part not in ("", ".")]
    return None if ".." in parts or not parts else "/".join(parts)


def base_name(text: str) -> str:
    """The last part of any path, Windows' or not."""
    return text.strip().replace("\\", "/").rstrip("/").rsplit("/", 1)[-1]


def _key(name: str) -> str:
    return unicodedata.normalize("NFC", name)  # macOS writes ä as a + dots, annotations do not


def _readable(name: str) -> str:
    """A file name that is not UTF-8 still has to go into JSON and messages."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def _is_folder(entry: os.DirEntry) -> bool:
    try:
        return entry.is_dir()
    except OSError:
        return False  # a link to itself: a file that cannot be read
