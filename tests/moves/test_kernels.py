"""Built-in moves by the contract of every move."""

from typing import Any, ClassVar

import pytest
import torch
from builders import MOVED, PUPILS
from contracts.moves import Case, MoveContract

from hiertorch.moves.groupwise import Groupwise
from hiertorch.moves.joint import Centred, Joint
from hiertorch.moves.noncentred import NonCentred

NAMES = ["varying intercepts", "overridden log_prob", "nested", "crossed", "correlated effects", "positive effects"]


class TestBuiltIn(MoveContract):
    """The moves of the default plans of models that between them have every kind of move: one decision a chain or a
    group, effects of one or two dimensions, parents of nested and crossed groupings, several bijections.
    """

    cases: ClassVar = {name: Case(MOVED[name], PUPILS) for name in NAMES}
    thorough = ("varying intercepts",)

    def test_every_kind_of_move_is_met(self) -> None:
        classes = {Groupwise, Centred, Joint, NonCentred}
        assert {
            type(move) for name in ("varying intercepts", "nested") for move, _ in self.setting(name).moves
        } == classes

    @pytest.mark.parametrize("piece", ["prior", "cells"])
    @pytest.mark.parametrize("kind", [Groupwise, Joint, NonCentred])
    def test_a_stale_piece_is_noticed(self, piece: str, kind: Any, sabotage: Any) -> None:
        sabotage.cache(piece, kind)
        with pytest.raises(AssertionError, match=rf"{piece}\S* differs"):
            self.test_cached_pieces_are_those_of_a_fresh_evaluation("varying intercepts")

    def test_walks_of_a_chain_are_accepted_by_the_change_of_the_whole_density(self, name: str) -> None:
        """min(1, exp(log_density(u') - log_density(u))), where u' is what is taken when everything is accepted."""
        setting = self.setting(name)
        for (move, tuning), noise in zip(setting.moves, setting.noises(6), strict=True):
            if not isinstance(move, Joint):
                continue
            walk = {**tuning, "log_share": torch.tensor(-torch.inf)} if move.guess is not None else tuning
            everything = noise._replace(log_uniform=torch.full_like(noise.log_uniform, -1e30))
            proposed, info = move.step(setting.state, walk, everything)
            space = setting.target.space
            before, after = (setting.target.log_density(space.join(s.free)) for s in (setting.state, proposed))
            torch.testing.assert_close(info.accept[:, 0], (after - before).clamp(max=0.0).exp(), rtol=1e-8, atol=1e-12)
