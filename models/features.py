"""Which stages' maps a network gives, and what is known of them, as in timm (timm.models._features)."""

from collections.abc import Sequence

from fcmae.core.errors import UserError


class FeatureInfo(list[dict[str, int | str]]):
    """A dict for each map that a network can give: `num_chs`, `reduction` and `module`.

    Args:
        stages: those of all maps
        out_indices: numbers of the maps that are given; by default all
    """

    def __init__(
        self, stages: Sequence[dict[str, int | str]], out_indices: Sequence[int] | None = None
    ) -> None:
        super().__init__(stages)
        self.out_indices = tuple(range(len(stages)) if out_indices is None else out_indices)

    def channels(self) -> list[int]:
        """Return the channels of each map that is given."""
        return [int(self[index]["num_chs"]) for index in self.out_indices]

    def reduction(self) -> list[int]:
        """Return the pixels to a position of each map that is given."""
        return [int(self[index]["reduction"]) for index in self.out_indices]

    def module_name(self) -> list[str]:
        """Return the name of the module that each map comes from."""
        return [str(self[index]["module"]) for index in self.out_indices]


def take_indices(count: int, indices: int | Sequence[int] | None) -> list[int]:
    """Return the numbers of the stages that are asked for.

    Args:
        count: stages that there are
        indices: the last so many; or numbers from 0 on, or from -1 back; None is all of them

    Raises:
        UserError: a number that no stage has
    """
    if indices is None:
        return list(range(count))
    if isinstance(indices, int):
        indices = range(count - indices, count)
    if not indices or not all(-count <= index < count for index in indices):
        raise UserError(f"stages {list(indices)}: a network has {count}, numbered 0 to {count - 1}")
    return [index % count for index in indices]
