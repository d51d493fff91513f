"""Orbax checkpoints of a training run: state and position, never what is frozen."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import orbax.checkpoint as ocp
from orbax.checkpoint import checkpoint_managers

from jaxdistill.config.schema import CheckpointConfig
from jaxdistill.engine.state import TrainState
from jaxdistill.errors import CheckpointError
from jaxdistill.types import Json, Tree


class Checkpointer:
    """Saves asynchronously into one folder, keeping the last steps and the best one."""

    def __init__(self, folder: Path, config: CheckpointConfig, *, higher_is_better: bool) -> None:
        self._folder = folder.resolve()
        policies: list[Any] = [checkpoint_managers.LatestN(config.keep_last)]
        if config.keep_best:
            policies.append(
                checkpoint_managers.BestN(
                    get_metric_fn=lambda metrics: metrics["value"],
                    reverse=not higher_is_better,
                    n=1,
                    keep_checkpoints_without_metrics=False,
                )
            )
        self._manager = ocp.CheckpointManager(
            self._folder,
            options=ocp.CheckpointManagerOptions(
                preservation_policy=checkpoint_managers.AnyPreservationPolicy(policies),
                cleanup_tmp_directories=True,
                enable_async_checkpointing=True,
            ),
        )

    def save(
        self, step: int, state: TrainState, position: Json, value: float | None = None
    ) -> None:
        """Start saving `state` as `step`; `value` is the ranking metric where it was measured."""
        if step in self._manager.all_steps():
            if value is None:
                return
            # Saved when the run was stopped before it was measured: only a ranked step can be best.
            self._manager.delete(step)
        self._manager.save(
            step,
            args=ocp.args.Composite(
                state=ocp.args.StandardSave(_to_plain(state)), position=ocp.args.JsonSave(position)
            ),
            metrics=None if value is None else {"value": value},
        )

    @property
    def folder(self) -> Path:
        """Where the steps lie, a folder each."""
        return self._folder

    def latest_step(self) -> int | None:
        """Return the newest complete step."""
        return self._manager.latest_step()

    def restore(self, like: TrainState, step: int | None = None) -> tuple[TrainState, Json]:
        """Return the state and position of `step` (default: the newest), placed as `like` is.

        Raises:
          CheckpointError: there is none, or it does not fit `like`.
        """
        step = self._manager.latest_step() if step is None else step
        if step is None:
            raise CheckpointError(f"{self._folder}: no complete checkpoint to restore")
        target = jax.tree.map(ocp.utils.to_shape_dtype_struct, _to_plain(like))
        try:
            self._check_names(step, target)
            restored = self._manager.restore(
                step,
                args=ocp.args.Composite(
                    state=ocp.args.StandardRestore(target), position=ocp.args.JsonRestore()
                ),
            )
        except (ValueError, KeyError, OSError) as error:
            reason = " ".join(str(error).split())[:300]
            raise CheckpointError(
                f"{self._folder}: step {step} cannot be restored: {reason}; "
                "if the model, the optimizer or what is frozen changed, or the checkpoint is of "
                "another version, start over with --force"
            ) from error
        fields = dict(restored["state"])
        fields["rng"] = jax.random.wrap_key_data(fields["rng"])
        return dataclasses.replace(like, **fields), restored["position"]

    def _check_names(self, step: int, target: Mapping[str, Tree]) -> None:
        """Refuse a step that holds other arrays: orbax fills in none and leaves out any."""
        folder: Any = self._folder / str(step) / "state"
        state: Any = ocp.PyTreeCheckpointHandler().metadata(folder)
        saved = {leaf.name for leaf in jax.tree.leaves(state.tree)}
        wanted = {
            jax.tree_util.keystr(path, simple=True, separator=".")
            for path, _ in jax.tree_util.tree_leaves_with_path(target)
        }
        if saved != wanted:
            parts = [
                f"{verb} {len(names)} arrays such as {min(names)!r}, which the run {does}"
                for verb, does, names in (
                    ("lacks", "trains", wanted - saved),
                    ("holds", "does not train", saved - wanted),
                )
                if names
            ]
            raise ValueError(f"it {' and '.join(parts)}")

    def wait(self) -> None:
        """Block until everything asked for is on disk; raises what the writer met."""
        self._manager.wait_until_finished()

    def close(self) -> None:
        """Wait and release the writer's threads."""
        self._manager.close()


def _to_plain(state: TrainState) -> dict[str, Tree]:
    """Return the state's fields, the key as raw words, in buffers that nothing else donates."""
    fields = {
        field.name: getattr(state, field.name)
        for field in dataclasses.fields(state)
        if getattr(state, field.name) is not None
    }
    fields["rng"] = jax.random.key_data(state.rng)
    if jax.default_backend() == "cpu":
        # Host arrays of CPU buffers are views: the next step would overwrite what is written.
        fields = jax.tree.map(jnp.copy, fields)
    return fields
