"""The two vocabulary tables while they are trained: embedding and head, a row for each used id and one for the rest."""

import math

import torch
from torch import Tensor, nn

from model.tiny.rows import NUM_CLASSES, Rows

VOCABULARY = 201088
ROW_SCALE = 0.5


class Tables(nn.Module):
    """Makes embedding and head [R + 1, H] from frozen directions and trained parts; the last row is every other id's.

    A trained row is free in both tables. A row that is only copied is its direction plus its class's offset, and one
    linear map, learnt on all rows, turns either kind into what the head has to look for.
    """

    directions: Tensor
    is_trained: Tensor
    classes: Tensor

    def __init__(self, rows: Rows) -> None:
        super().__init__()
        hidden = rows.directions.shape[1]
        other = torch.zeros(1, dtype=torch.bool)
        directions = torch.from_numpy(rows.directions) * ROW_SCALE * math.sqrt(hidden)
        self.register_buffer("directions", torch.cat((directions, torch.zeros(1, hidden))))
        self.register_buffer("is_trained", torch.cat((torch.from_numpy(rows.is_trained), ~other)))
        self.register_buffer("classes", torch.cat((torch.from_numpy(rows.classes), torch.tensor([NUM_CLASSES - 1]))))
        self.own = nn.Parameter(self.directions[self.is_trained].clone())
        self.own_head = nn.Parameter(torch.zeros_like(self.own))
        self.offsets = nn.Parameter(torch.randn(NUM_CLASSES, hidden) * 0.2)
        self.head_offsets = nn.Parameter(torch.zeros(NUM_CLASSES, hidden))
        self.turn = nn.Parameter(torch.eye(hidden) * 0.15)
        self.others = VOCABULARY - len(rows.ids)

    def embedding(self) -> Tensor:
        """Return the embedding [R + 1, H]."""
        copied = self.directions + self.offsets[self.classes]
        return copied.index_put((self.is_trained.nonzero()[:, 0],), self.own)

    def head(self, embedding: Tensor) -> Tensor:
        """Return the head [R + 1, H]."""
        added = self.head_offsets[self.classes].index_put((self.is_trained.nonzero()[:, 0],), self.own_head)
        return embedding @ self.turn + added

    def copied_rows(self, rows: Rows) -> tuple[Tensor, Tensor]:
        """Return embedding and head [R, H] of rows that are only copied and took no part in the training."""
        directions, classes = torch.from_numpy(rows.directions), torch.from_numpy(rows.classes)
        embedding = directions * ROW_SCALE * math.sqrt(directions.shape[1]) + self.offsets[classes]
        return embedding, embedding @ self.turn + self.head_offsets[classes]

    def logits(self, hidden: Tensor, head: Tensor) -> Tensor:
        """Return the logits [M, R + 1] whose softmax is the full vocabulary's: all other ids count as one."""
        logits = hidden @ head.T
        bias = torch.zeros(logits.shape[1])
        bias[-1] = math.log(self.others)
        return logits + bias
