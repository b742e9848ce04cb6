"""Which folder of a listing is the class of an image."""

from __future__ import annotations

from collections import defaultdict

from nas.data.annotations import annotated
from nas.data.classes import check_class_names, class_name, shown
from nas.data.listing import ANNOTATIONS, Listing, some
from search_spaces import UserError

BESIDE = "beside the class folders"


def is_flat(listing: Listing) -> bool:
    """Whether nothing says the classes: all images lie in no folder, or in `images/`, and no text names them."""
    folders = {path.rpartition("/")[0] for path in listing.images}
    return folders in ({""}, {"images"}) and ANNOTATIONS not in listing.annotations


def wrapped(listing: Listing) -> Listing | None:
    """The one folder that all others lie in, `photos/` of a .tar of photos/; None if they do not."""
    top = listing.top_folders()
    if len(top) != 1 or not (inner := listing.within(top[0])).top_folders():
        return None
    inner.left_out.update({f"../{path}": BESIDE for path in listing.images if "/" not in path})
    return inner


def unwrapped(listing: Listing) -> Listing:
    """The folder within that has several."""
    return unwrapped(inner) if (inner := wrapped(listing)) else listing


def classify(listing: Listing, class_depth: int | None) -> dict[str, str]:
    """The class of every image, by path; images beside the class folders move to what is left out.

    Where a text at the top says the classes of images, it does, and folders do not.

    Args:
        class_depth: which of the folders that an image lies in is its class, counted from the outside; None where they
            are one and the same class.

    Raises:
        UserError: no image in a folder; folders within folders, of which either could be the class; impossible names.
    """
    if ANNOTATIONS in listing.annotations:
        return annotated(listing)
    top = listing.top_folders()
    if not top:
        raise UserError(f"{listing.name} has {_how_many(listing)}; give a folder or .tar with 2 class folders or more")
    if class_depth is None:
        _check_one_level(listing)
    depth = class_depth or 1
    listing.leave_out([p for p in listing.images if p.count("/") < depth], BESIDE)
    if not listing.images:
        raise UserError(f"--class-depth {class_depth}: no image of {listing.name} lies in so many folders; give less")
    folders = {path: "/".join(path.split("/")[:depth]) for path in listing.images}
    names = {folder: class_name(folder.rpartition("/")[2]) for folder in sorted(set(folders.values()))}
    check_class_names(names.values(), listing.name)
    _check_unique(listing, names)
    return {path: names[folder] for path, folder in folders.items()}


def _how_many(listing: Listing) -> str:
    if listing.images:
        return f"{len(listing.images)} images without a folder"
    return f"no images, but {listing.summary()}" if listing.left_out else "no images"


def _check_one_level(listing: Listing) -> None:
    """UserError if the images of a folder lie in several folders, each of which could be a class."""
    places: dict[str, set[str]] = defaultdict(set)
    for path in listing.images:
        if "/" in path:
            places[path.partition("/")[0]].add(path.rpartition("/")[0])
    for outer, inner in sorted(places.items()):
        if len(inner) > 1:
            found = sorted(inner - {outer})
            count = sum(path.startswith(f"{found[0]}/") for path in listing.images)
            raise UserError(
                f"{listing.name} has folders within folders, such as {some(found, 2)} ({count} images in the first); "
                f"give --class-depth 1 if '{shown(outer)}' is a class with all that is in it, 2 if the folders in it "
                "are classes, --train-split if one of them has the classes, or move away what is neither"
            )


def _check_unique(listing: Listing, names: dict[str, str]) -> None:
    """UserError if two folders have one name: they would be one class."""
    folders: dict[str, str] = {}
    for folder, name in names.items():
        if (other := folders.setdefault(name, folder)) != folder:
            raise UserError(
                f"{listing.name} has two folders '{shown(name)}', {shown(other)} and {shown(folder)}; rename or move "
                "one, or give another --class-depth"
            )
