"""Classes of images in a text: TinyImageNet's `val_annotations.txt`, beside `images/` with all images of a split."""

from __future__ import annotations

from nas.data.classes import check_class_names, class_name
from nas.data.listing import ANNOTATIONS, Listing, some, warn
from search_spaces import UserError


def annotated(listing: Listing) -> dict[str, str]:
    """The class of every image, by path, from the listing's text; images that it does not name are left out.

    A line is a file's name, a tab and its class; what follows (a box) is not read.

    Raises:
        UserError: a text that is not UTF-8; a line without a class; impossible names.
    """
    classes = _classes(f"{listing.name}/{ANNOTATIONS}", listing.content(ANNOTATIONS))
    names = {path: path.rpartition("/")[2] for path in listing.images}
    listing.leave_out([path for path, name in names.items() if name not in classes], f"not named in {ANNOTATIONS}")
    if missing := sorted(set(classes) - set(names.values())):
        warn(f"{listing.name}: {ANNOTATIONS} names {len(missing)} images that are not there: {some(missing)}")
    return {path: classes[names[path]] for path in listing.images}


def _classes(where: str, content: bytes) -> dict[str, str]:
    """By name of a file."""
    try:
        lines = content.decode("utf-8-sig").splitlines()
    except UnicodeDecodeError:
        raise UserError(f"{where} is not UTF-8; give lines of a file's name, a tab and its class") from None
    found: dict[str, str] = {}
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        file, tab, rest = line.partition("\t")
        if not tab or not (name := class_name(rest.partition("\t")[0].strip())):
            raise UserError(f"{where}, line {number} has no class; give lines of a file's name, a tab and its class")
        if found.setdefault(file, name) != name:
            raise UserError(f"{where} gives {file} two classes, {found[file]} and {name}; leave one line of it")
    check_class_names(found.values(), where)
    return found
