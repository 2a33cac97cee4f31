"""Which version Triton serves: a pin in the version policy, and the way back.

The pin stands in `config.pbtxt`, because there it survives restarts and holds for every server of the repository.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from builder.config.serving import Serving, VersionPolicy
from builder.repository.encoded import follow, has_encoded
from builder.repository.publish import replacement
from builder.repository.shared_files import shared_for
from builder.repository.versions import Model, existing, model_versions
from model.encoded import decoder_of, ensemble_of
from model.errors import CheckFailedError, InputError
from model.spec import Frozen

PROVEN = "passed"


class Promotion(Frozen):
    """What a promotion came to."""

    model: str
    version: int
    """The newest version that Triton serves now."""
    policy: str
    """In the words of `--versions`."""
    policy_before: str
    served_before: tuple[int, ...]
    verdict: str
    changed: tuple[str, ...]
    """The models that a running server has to load again."""

    def summary(self) -> str:
        """What is served, and what was."""
        before = ", ".join(map(str, self.served_before)) or "nothing"
        how = "follows the newest version" if self.policy.startswith("latest") else "pinned"
        return f"{self.model}: serves version {self.version} ({how}); before: {before} (policy {self.policy_before})"


def promote(folder: Path, version: int | None, force: bool = False) -> Promotion:
    """Have Triton serve one version of a model, or with None the newest one again, now and after each publication.

    `config.pbtxt`, `model.json`, the labels and the warm-up become those of that version, in one step: a running
    server sees none of it until it loads the model again.

    Raises InputError when there is no such version, ArtifactError where it does not say what it needs or another
    builder is at work, CheckFailedError for a version whose verdict did not pass, unless forced.
    """
    return _promoted(folder, lambda model: version, force)


def _promoted(folder: Path, choose: Callable[[Model], int | None], force: bool) -> Promotion:
    """`promote`, of the version that is chosen once no other builder can change the model."""
    with replacement(folder.parent, folder.name) as prepared:
        before = model_versions(folder)
        version = choose(before)
        number = before.versions[-1].version if version is None and before.versions else version or 0
        existing(folder, number)
        verdict = next(one.verdict for one in before.versions if one.version == number)
        if verdict != PROVEN and not force:
            raise CheckFailedError(
                f"{folder.name}: the verdict of version {number} is {verdict}, not {PROVEN}; "
                f"`builder show {folder / str(number)}` tells why. --force serves it all the same"
            )
        policy = VersionPolicy(latest=1) if version is None else VersionPolicy(versions=(number,))
        shared = shared_for(prepared.model, number, Serving(version_policy=policy))
        shared.write(prepared.model)
        if encoded := has_encoded(folder.parent, folder.name):
            follow(prepared.neighbours, folder.parent, shared.config)
    return Promotion(
        model=folder.name,
        version=number,
        policy=model_versions(folder).policy,
        policy_before=before.policy,
        served_before=_served(before),
        verdict=verdict,
        changed=(folder.name, *((decoder_of(folder.name), ensemble_of(folder.name)) if encoded else ())),
    )


def rollback(folder: Path, force: bool = False) -> Promotion:
    """Serve the newest version below the one being served whose verdict passed; forced, whatever its verdict.

    Raises InputError when there is none, and what `promote` does.
    """
    return _promoted(folder, lambda model: _one_before(model, force), force)


def _one_before(model: Model, force: bool) -> int:
    served = _served(model)
    if not served:
        raise InputError(
            f"{model.name}: the version policy {model.policy} serves none of its versions, so there is none before; "
            f"choose one: builder promote {model.name} VERSION"
        )
    below = [one for one in model.versions if one.version < served[-1]]
    good = [one.version for one in below if force or one.verdict == PROVEN]
    if not good:
        passed_over = ", ".join(f"{one.version} ({one.verdict})" for one in below)
        raise InputError(
            f"{model.name}: no version below {served[-1]} has passed its verdict"
            f"{f'; there are {passed_over}, which --force allows' if below else ', for there is none'}"
        )
    return max(good)


def _served(model: Model) -> Sequence[int]:
    return tuple(one.version for one in model.versions if one.served)
