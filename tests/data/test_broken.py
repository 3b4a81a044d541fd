"""Broken images of a run are listed once, whichever process met them."""

import multiprocessing
import os
import socket
from pathlib import Path

import numpy as np
import torch

from fcmae.core.distributed import joined
from fcmae.data.broken import BrokenList, count_broken
from fcmae.data.images import ArraySource, FolderSource
from fcmae.data.index import ImageIndex

SOURCE = ArraySource(torch.zeros(9, 1, 2, 2, dtype=torch.uint8), "image")


def test_each_image_is_listed_once_and_again_by_nobody(tmp_path: Path) -> None:
    path = tmp_path / "broken.txt"
    broken = BrokenList(path)
    broken.add(SOURCE, [])
    assert not path.exists()
    broken.add(SOURCE, [(3, "cut short"), (3, "cut short")])
    broken = BrokenList(path)
    broken.add(SOURCE, [(3, "cut short"), (5, "empty")])
    broken.gather()
    assert path.read_text().splitlines() == [f"{SOURCE.name(3)}\tcut short", f"{SOURCE.name(5)}\tempty"]
    assert len(broken) == 2
    assert count_broken(path, tmp_path / "no_list.npz") == f"2 images, listed in {path}"
    assert count_broken(tmp_path / "nothing.txt", tmp_path / "no_list.npz") == ""


def test_the_line_of_a_killed_process_is_written_anew(tmp_path: Path) -> None:
    path = tmp_path / "broken.txt"
    path.write_text("image 3\tcut short\nimage 5\tem")
    broken = BrokenList(path)
    assert len(broken) == 1
    broken.add(SOURCE, [(3, "cut short"), (5, "empty")])
    assert path.read_text() == "image 3\tcut short\nimage 5\tempty\n"


def test_names_that_are_not_utf8_are_listed_once_byte_for_byte(tmp_path: Path) -> None:
    name = b"caf\xe9.jpg"  # Latin-1
    index = ImageIndex(tmp_path, np.frombuffer(name, np.uint8), np.array([0, len(name)]))
    for _ in range(2):
        BrokenList(tmp_path / "broken.txt").add(FolderSource(index, 3), [(0, "cut short")])
    assert (tmp_path / "broken.txt").read_bytes() == name + b"\tcut short\n"


ODD = [
    "tab\there.jpg",
    "new\nline.jpg",
    "\r.jpg",
    "\u2028.jpg",
    "\x85.jpg",
    "back\\slash.jpg",
    "\udcff.jpg",
    "\ud800",
]


class Named(ArraySource):
    """Images of odd names."""

    def name(self, i: int) -> str:
        return ODD[i]


def test_odd_names_are_listed_once_over_resumes_on_a_line_each(tmp_path: Path) -> None:
    source, path = Named(SOURCE.images), tmp_path / "broken.txt"
    for _ in range(3):
        broken = BrokenList(path)
        for i in range(len(ODD)):
            broken.add(source, [(i, "odd\nreason")])
        assert len(broken) == len(ODD)
    lines = path.read_bytes().splitlines()
    assert len(lines) == len(path.read_bytes().split(b"\n")) - 1 == len(ODD)
    assert lines[0] == rb"tab\there.jpg" + b"\t" + rb"odd\nreason"
    assert count_broken(path, tmp_path / "no_list.npz").startswith(f"{len(ODD)} images")


def meet_broken_images(rank: int, port: int, path: Path) -> None:
    """Each of two processes meets image 4 and one of its own; only rank zero may write."""
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), RANK=str(rank), WORLD_SIZE="2")
    with joined("cpu", 1.0):
        broken = BrokenList(path)
        broken.add(SOURCE, [(4, "empty"), (rank, "cut short")])
        broken.gather()
        broken.gather()
        assert len(broken) == 3


def test_rank_zero_lists_what_the_others_met(tmp_path: Path) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    path = tmp_path / "broken.txt"

    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=meet_broken_images, args=(rank, port, path)) for rank in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0]
    names = [line.partition("\t")[0] for line in path.read_text().splitlines()]
    assert sorted(names) == [SOURCE.name(0), SOURCE.name(1), SOURCE.name(4)]
