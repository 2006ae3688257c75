"""The two vocabulary tables while they are trained: embedding and head, a row for each used id and one for the rest."""

import math

import torch
from torch import Tensor, nn

from model.tiny.rows import BARE_CLASSES, MOST_PIECES, NUM_CLASSES, SPACED_CLASSES, Rows

VOCABULARY = 201088
ROW_SCALE = 1.0
TURN_SCALE = 0.08
PIECES_OFFSET_STD = 0.2


class Tables(nn.Module):
    """Makes embedding and head from frozen directions and trained parts; row R, the last, is every other id's.

    A trained row is free in both tables. A row that is only copied is its direction plus its class's offset, and one
    linear map, learnt on all rows, turns either kind into what the head has to look for. Pieces with and without a
    space before them start with opposite offsets, and those with a space also with one for the number of pieces that
    spell them without: so the model knows when a spelling is at its end.
    """

    directions: Tensor
    classes: Tensor
    own_places: Tensor

    def __init__(self, rows: Rows, written: Tensor, spaced: Tensor) -> None:
        super().__init__()
        hidden = rows.directions.shape[1]
        is_trained = torch.cat((torch.from_numpy(rows.is_trained), torch.ones(1, dtype=torch.bool)))
        directions = torch.from_numpy(rows.directions) * ROW_SCALE * math.sqrt(hidden)
        self.register_buffer("directions", torch.cat((directions, torch.zeros(1, hidden))))
        self.register_buffer("classes", torch.cat((torch.from_numpy(rows.classes), torch.tensor([NUM_CLASSES - 1]))))
        self.register_buffer("own_places", is_trained.nonzero()[:, 0])
        offsets = torch.randn(NUM_CLASSES, hidden) * 0.05
        pieces = torch.randn(MOST_PIECES, hidden) * PIECES_OFFSET_STD
        offsets[list(SPACED_CLASSES)] += spaced + pieces.repeat(len(SPACED_CLASSES) // MOST_PIECES, 1)
        offsets[list(BARE_CLASSES)] -= spaced
        self.offsets = nn.Parameter(offsets)
        self.head_offsets = nn.Parameter(torch.zeros(NUM_CLASSES, hidden))
        self.own = nn.Parameter((self.directions + offsets[self.classes])[is_trained])
        self.own_head = nn.Parameter(torch.zeros_like(self.own))
        self.turn = nn.Parameter(TURN_SCALE * written.T)
        self.num_rows = len(rows.ids)

    @property
    def is_copied(self) -> Tensor:
        """Return which rows [R + 1] are only copied."""
        return torch.ones(self.num_rows + 1, dtype=torch.bool).index_fill(0, self.own_places, False)

    def drawn(self, needed: Tensor, num_others: int) -> tuple[Tensor, Tensor]:
        """Return places [A] of rows to compute with and the logarithm [A] of how many ids each stands for.

        They are all trained rows, the `needed` ones, and `num_others` of the copied ones, which stand for all that
        are left out; the shared row stands for every id without a row of its own.
        """
        is_in = torch.zeros(self.num_rows + 1, dtype=torch.bool)
        is_in[self.own_places] = True
        is_in[needed] = True
        left = (~is_in).nonzero()[:, 0]
        sample = left[torch.randperm(len(left))[:num_others]]
        weights = torch.zeros(self.num_rows + 1)
        weights[sample] = math.log(len(left) / max(len(sample), 1))
        weights[-1] = math.log(VOCABULARY - self.num_rows)
        is_in[sample] = True
        places = is_in.nonzero()[:, 0]
        return places, weights[places]

    def forward(self, places: Tensor) -> tuple[Tensor, Tensor]:
        """Return embedding and head [A, H] of the rows at `places` [A], ascending, all trained rows among them."""
        where_own = torch.searchsorted(places, self.own_places)
        classes = self.classes[places]
        embedding = (self.directions[places] + self.offsets[classes]).index_put((where_own,), self.own)
        return embedding, embedding @ self.turn + self.head_offsets[classes].index_put((where_own,), self.own_head)

    def made_up(self, directions: Tensor, classes: Tensor) -> tuple[Tensor, Tensor]:
        """Return embedding and head [M, H] of rows of no token, for directions [M, H] of length 1."""
        scale = ROW_SCALE * math.sqrt(directions.shape[1])
        embedding = directions * scale + self.offsets[classes]
        return embedding, embedding @ self.turn + self.head_offsets[classes]
