"""Choose the version that Triton serves by the version policy, and go back to an earlier one.

The policy is part of `config.pbtxt`, so it survives restarts and applies to every server of the repository.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from builder.repository.encoded import has_encoded, update_companions
from builder.repository.publish import replacement
from builder.repository.shared_files import shared_files_for
from builder.repository.versions import Model, model_versions, version_folder
from tritonkit.errors import CheckFailedError, InputError
from tritonkit.export_options import ServingOptions
from tritonkit.spec import Frozen
from tritonkit.triton.companions import decoder_of, ensemble_of

PASSED = "passed"


class Promotion(Frozen):
    """The result of a promotion."""

    model: str
    version: int
    """The newest version that Triton serves now."""
    policy: str
    """The version policy, in the format of `--versions`."""
    policy_before: str
    served_before: tuple[int, ...]
    verdict: str
    changed: tuple[str, ...]
    """The models that a running server must reload."""

    def summary(self) -> str:
        """What is served now and was served before, in one sentence."""
        before = ", ".join(map(str, self.served_before)) or "nothing"
        mode = "follows the newest version" if self.policy.startswith("latest") else "pinned"
        return f"{self.model}: serves version {self.version} ({mode}); before: {before} (policy {self.policy_before})"


def promote(folder: Path, version: int | None, force: bool = False) -> Promotion:
    """Make Triton serve one version of a model; None serves the newest version, now and after each publication.

    `config.pbtxt`, `model.json`, the labels and the warm-up are replaced by those of that version in one step. A
    running server uses them when it reloads the model.

    Raises InputError where the version does not exist, ArtifactError where its spec is missing or another builder is
    running, CheckFailedError where its verdict did not pass, unless `force` is set.
    """
    return _promote_chosen(folder, lambda model: version, force)


def _promote_chosen(folder: Path, choose: Callable[[Model], int | None], force: bool) -> Promotion:
    """Promote the version that `choose` returns; it is called under the repository's lock."""
    with replacement(folder.parent, folder.name) as prepared:
        before = model_versions(folder)
        version = choose(before)
        number = before.versions[-1].version if version is None and before.versions else version or 0
        version_folder(folder, number)
        verdict = next(entry.verdict for entry in before.versions if entry.version == number)
        if verdict != PASSED and not force:
            raise CheckFailedError(
                f"{folder.name}: the verdict of version {number} is {verdict}, not {PASSED}; "
                f"`builder show {folder / str(number)}` shows why. --force serves it anyway",
                code="verdict.not_passed",
            )
        policy = "latest:1" if version is None else str(number)
        shared = shared_files_for(prepared.model, number, ServingOptions(versions=policy))
        shared.write(prepared.model)
        if encoded := has_encoded(folder.parent, folder.name):
            update_companions(prepared.companions, folder.parent, shared.config)
    return Promotion(
        model=folder.name,
        version=number,
        policy=model_versions(folder).policy,
        policy_before=before.policy,
        served_before=_served_versions(before),
        verdict=verdict,
        changed=(folder.name, *((decoder_of(folder.name), ensemble_of(folder.name)) if encoded else ())),
    )


def rollback(folder: Path, force: bool = False) -> Promotion:
    """Serve the newest older version whose verdict passed; with `force`, whatever its verdict.

    Raises InputError where there is none, and what `promote` raises.
    """

    def previous(model: Model) -> int:
        served = _served_versions(model)
        if not served:
            raise InputError(
                f"{model.name}: the version policy {model.policy} serves none of its versions, so there is no earlier "
                f"one; choose a version: builder promote {model.name} VERSION",
                code="repository.nothing_served",
            )
        older = [entry for entry in model.versions if entry.version < served[-1]]
        passed = [entry.version for entry in older if force or entry.verdict == PASSED]
        if not older:
            raise InputError(f"{model.name}: has no version below {served[-1]}", code="repository.no_earlier_version")
        if not passed:
            verdicts = ", ".join(f"{entry.version} ({entry.verdict})" for entry in older)
            raise InputError(
                f"{model.name}: no version below {served[-1]} passed its verdict: {verdicts}; --force allows them",
                code="repository.no_passed_version",
            )
        return max(passed)

    return _promote_chosen(folder, previous, force)


def _served_versions(model: Model) -> Sequence[int]:
    return tuple(entry.version for entry in model.versions if entry.served)
