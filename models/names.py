"""Weights by name: what timm, the Hugging Face hub and ConvNeXt's authors publish, as files in caches.

Names begin with `timm:`, `hf:` or `official:`. Files lie where huggingface_hub and torch.hub keep theirs, and
come once; the licence of their weights is told once in a process.
"""

import contextlib
import difflib
import functools
import logging
import sys
import urllib.request
from collections.abc import Iterable, Sequence
from pathlib import Path

from fcmae.core.errors import UserError

logger = logging.getLogger(__name__)

SOURCES = ("timm:", "hf:", "official:")
AUTHORS = (
    "https://dl.fbaipublicfiles.com/convnext/"  # of github.com/facebookresearch/ConvNeXt and ConvNeXt-V2
)
HUB_FILES = ("model.safetensors", "pytorch_model.bin")
LICENCES = {"convnext_": "MIT", "convnextv2_": "CC-BY-NC-4.0: no commercial use"}


def _published() -> dict[str, str]:
    """Return the authors' files by name: pre-trained, fine-tuned on ImageNet-1K, and from 22K on to 1K."""
    files = {}
    for size in ("atto", "femto", "pico", "nano", "tiny", "base", "large", "huge"):
        model = f"convnextv2_{size}"
        files[f"{model}_fcmae"] = f"convnextv2/pt_only/{model}_1k_224_fcmae.pt"
        files[f"{model}_1k"] = f"convnextv2/im1k/{model}_1k_224_ema.pt"
        sides = {
            "nano": (224, 384),
            "tiny": (224, 384),
            "base": (224, 384),
            "large": (224, 384),
            "huge": (384, 512),
        }
        for side in sides.get(size, ()):
            files[f"{model}_22k_{side}"] = f"convnextv2/im22k/{model}_22k_{side}_ema.pt"
    for size in ("tiny", "small", "base", "large"):
        files[f"convnext_{size}_1k"] = f"convnext_{size}_1k_224_ema.pth"
    for size in ("tiny", "small", "base", "large", "xlarge"):
        files[f"convnext_{size}_22k"] = f"convnext_{size}_22k_224.pth"
    return files


OFFICIAL = _published()


def is_name(path: str | Path) -> bool:
    """Tell whether weights are named, and no path."""
    return str(path).startswith(SOURCES)


@functools.cache
def fetch(name: str) -> Path:
    """Return the file of weights that are known by name, from a cache or downloaded into it.

    Args:
        name: `timm:convnextv2_tiny.fcmae` (timm's names, with or without the tag), `hf:OWNER/REPOSITORY` or
            `hf:OWNER/REPOSITORY@REVISION`, or `official:convnextv2_tiny_fcmae` (a name of `OFFICIAL`)

    Raises:
        UserError: no such name, with those that are near; or no copy in the cache and no network
    """
    source, _, rest = name.partition(":")
    file, licence = {"timm": _from_timm, "hf": _from_hub, "official": _from_authors}[source](name, rest)
    logger.info("weights %s are %s; their licence: %s", name, file, licence or "not stated")
    return file


def _from_authors(name: str, rest: str) -> tuple[Path, str]:
    """Return the authors' file of that name, in torch.hub's folder of checkpoints."""
    if rest not in OFFICIAL:
        raise UserError(f"{name} is not published; {_near(rest, OFFICIAL)}")
    import filelock
    from huggingface_hub.constants import HF_HUB_OFFLINE
    from torch import hub  # imports torch

    url = AUTHORS + OFFICIAL[rest]
    file = Path(hub.get_dir(), "checkpoints", url.rpartition("/")[2])
    if not file.is_file():
        if HF_HUB_OFFLINE:
            raise UserError(f"{name}: HF_HUB_OFFLINE is set, and {file} is not there; {url} holds it")
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            with filelock.FileLock(f"{file}.lock"):
                if not file.is_file():
                    _download(url, file)
        except OSError as error:
            raise UserError(f"{name}: {url} cannot be read ({error}); put the file at {file}") from error
    return file, next(licence for begin, licence in LICENCES.items() if rest.startswith(begin))


def _download(url: str, file: Path) -> None:
    """Write what an address holds, whole or not at all.

    Raises:
        OSError: no network, no such address, or a connection that ended early
    """
    from torch import hub

    with urllib.request.urlopen(urllib.request.Request(url, method="HEAD"), timeout=30) as answer:
        size = int(answer.headers["Content-Length"])
    partial = file.with_name(f"{file.name}.part")
    hub.download_url_to_file(url, str(partial), progress=sys.stderr.isatty())
    if partial.stat().st_size != size:
        raise OSError(f"the connection ended after {partial.stat().st_size} of {size} bytes")
    partial.replace(file)


def _from_timm(name: str, rest: str) -> tuple[Path, str | None]:
    """Return the file that timm keeps on the Hugging Face hub for pretrained weights of that name."""
    from timm.models import get_pretrained_cfg, list_pretrained  # imports torch

    known = list_pretrained("convnext*")
    config = (
        get_pretrained_cfg(rest)
        if rest in known or rest in {tag.partition(".")[0] for tag in known}
        else None
    )
    if config is None or not config.hf_hub_id:
        raise UserError(f"{name}: timm has no such weights of a ConvNeXt; {_near(rest, known)}")
    files = (config.hf_hub_filename,) if config.hf_hub_filename else HUB_FILES
    return _from_repository(name, config.hf_hub_id, None, files), config.license


def _from_hub(name: str, rest: str) -> tuple[Path, str | None]:
    """Return the weights of a repository on the Hugging Face hub, and the licence in its model card."""
    from huggingface_hub import metadata_load

    repository, _, revision = rest.partition("@")
    file = _from_repository(name, repository, revision or None, HUB_FILES)
    try:
        card = _from_repository(name, repository, revision or None, ("README.md",))
    except UserError:
        return file, None
    return file, (metadata_load(card) or {}).get("license")


def _from_repository(name: str, repository: str, revision: str | None, files: Sequence[str]) -> Path:
    """Return the first of these files that a repository on the Hugging Face hub has.

    Raises:
        UserError: there is no such repository, none of the files is in it, or the hub does not answer
    """
    from huggingface_hub import errors, hf_hub_download, try_to_load_from_cache

    try:
        for file in files:
            if isinstance(found := try_to_load_from_cache(repository, file, revision=revision), str):
                return Path(found)
        for file in files:
            with contextlib.suppress(errors.RemoteEntryNotFoundError):
                return Path(hf_hub_download(repository, file, revision=revision))
    except errors.LocalEntryNotFoundError as error:
        raise UserError(
            f"{name}: not in the cache of the Hugging Face hub, and the hub does not answer (no network, or "
            f"HF_HUB_OFFLINE is set); on a machine with network: hf download {repository}"
        ) from error
    except (errors.HFValidationError, OSError) as error:
        reason = str(error).partition("\n")[0]
        raise UserError(f"{name}: the Hugging Face hub gives no {repository} ({reason})") from error
    raise UserError(f"{name}: {repository} holds none of {', '.join(files)}")


def _near(name: str, known: Iterable[str]) -> str:
    """Return what to say of a name that is not known: those that are near, or some."""
    known = list(known)
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.5) or known[:3]
    return f"did you mean {', '.join(near)}?"
