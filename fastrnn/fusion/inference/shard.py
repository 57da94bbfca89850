"""Parts of a table that several processes or machines predict, such as 2/8."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Annotated

from ..config.parser import Checked, Range
from ..errors import ConfigError


@dataclass(frozen=True)
class Shard(Checked):
    """Part `index` of `count` consecutive parts of a table.

    Raises:
        ConfigError: not 1 ≤ index ≤ count.
    """

    index: Annotated[int, Range(1)] = 1
    count: Annotated[int, Range(1)] = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.index > self.count:
            raise ConfigError(
                f"there is no shard {self.index}/{self.count}; give 1/{self.count} to "
                f"{self.count}/{self.count}"
            )

    @classmethod
    def of(cls, text: str) -> Shard:
        """Parse a text such as "2/8".

        Raises:
            ConfigError: another text, or no such part.
        """
        found = re.fullmatch(r"(\d{1,9})/(\d{1,9})", text, re.ASCII)
        if found is None:
            raise ConfigError(f"a shard is written as 2/8; got {text!r}")
        return cls(int(found[1]), int(found[2]))

    def rows(self, count: int, block: int) -> range:
        """Return the part's rows among `count` rows.

        Parts consist of whole blocks of `block` rows, which are batched and padded as in the whole
        table. Therefore the predictions have the same bits. A part has no rows if there are more
        parts than blocks.
        """
        blocks = math.ceil(count / block)
        first, end = (part * blocks // self.count * block for part in (self.index - 1, self.index))
        return range(first, min(end, count))


WHOLE = Shard()
