"""What is learned of a person from what they chose, and when it becomes their profile; nothing here knows of HTTP.

A belief is worked out anew from what is stored, so that a restart forgets nothing.
"""

import threading
from collections.abc import Mapping, Sequence
from dataclasses import replace

from counterpoint.decode.band import Band
from counterpoint.profiles.elicit import Belief
from counterpoint.profiles.sentence import Reading, embedder, prior, read_sentence
from counterpoint.profiles.tuning import Choice, Features, Rated, Tuning, Verdict, direction, tuning_of
from counterpoint.profiles.zone import Zone, parse_zones
from counterpoint.serve.answers import Answer
from counterpoint.serve.scorers import Scorers
from counterpoint.serve.store import Feedback, Store, User, Version
from counterpoint.types import CounterpointError, Dimension, Profile

ENOUGH = 0.5
"""How sure a belief must be to act on: that it serves a person almost as well as any is then likelier than not."""


class Learner:
    """Learns the profiles of a band's people: by its reward models where it has them, else by who made an answer.

    `zones` are the operator's, as `parse_zones` reads them. Raises CounterpointError for those that do not fit.
    """

    def __init__(self, band: Band, store: Store, scorers: Scorers, zones: str = "") -> None:
        self.band = band
        self.store = store
        self.scorers = scorers
        self.zones = self._parsed(zones)
        self._reading = threading.Lock()

    @property
    def measure(self) -> Features:
        return "rewards" if len(self._scored) > 1 else "profiles"

    @property
    def tuning(self) -> Tuning:
        """Raises CounterpointError where the band has not two dimensions to choose between."""
        return self._tuning()

    def _tuning(self, start: Belief | None = None) -> Tuning:
        dimensions = self._scored if self.measure == "rewards" else self._served
        return tuning_of(dimensions, self.measure, start, self.zones)

    @property
    def _served(self) -> list[Dimension]:
        with_expert = {expert.dimension for expert in self.band.experts}
        file = self.band.file
        return [file.dimension(entry.name) for entry in file.dimensions if entry.name in with_expert]

    @property
    def _scored(self) -> list[Dimension]:
        return [dimension for dimension in self._served if dimension.name in self.scorers.dimensions]

    def features(self, answer: Answer) -> dict[str, float]:
        """What is known of an answer: its scores, or the direction of the profile that made it."""
        if self.measure == "rewards":
            return self.scorers.scores(answer.prompt, [answer.text])[0]
        return direction(Profile(answer.weights), [dimension.name for dimension in self._served])

    def belief(self, owner: str, user: str) -> Belief:
        """What all that a person said tells of them, from their last sentence on, if they ever gave one.

        What was said of other features than today's tells nothing.
        """
        tuning, heard = self.tuning, self.sentence(owner, user)
        if heard is not None:
            tuning = self._tuning(prior(heard.profile.weights, tuning.dimensions))
        said = [one for one in self.store.feedback(owner, user) if one.measure == self.measure and _tells(one, tuning)]
        return tuning.believe(*evidence(said))

    def verdict(self, owner: str, user: str) -> Verdict:
        """The same for people to read; whoever said nothing has no profile, whichever way the belief's draws fall."""
        found = self.tuning.verdict(self.belief(owner, user))
        return found if found.choices or self.sentence(owner, user) else replace(found, profile=None)

    def sentence(self, owner: str, user: str) -> Version | None:
        """The last profile that was read from a sentence of theirs, which choices may have moved on from."""
        history = self.store.history(owner, user) or []
        return next((version for version in history if version.source == "sentence"), None)

    def learn(self, owner: str, user: User) -> Verdict:
        """What is believed after new feedback, and from `ENOUGH` on the person's profile.

        A profile that somebody set for them stays: choices do not overrule it.
        """
        verdict = self.verdict(owner, user.name)
        before = user.current
        if verdict.sure < ENOUGH or verdict.profile is None or (before and before.source == "set"):
            return verdict
        if before is None or before.profile.weights != verdict.profile.weights:
            method = before.method if before else None
            self.store.set_profile(owner, user.name, verdict.profile, "learned", method)
        return verdict

    def read(self, sentence: str) -> Reading:
        """What a sentence says of the dimensions; the first one waits for the embedding model, some seconds.

        Raises CounterpointError for an empty one, and where the band has not two dimensions.
        """
        with self._reading:
            return read_sentence(sentence, self._served, embedder())

    def _parsed(self, zones: str) -> dict[str, Zone]:
        if zones.strip() and self.measure != "rewards":
            raise CounterpointError("setting zones: they are in the units of reward models, and this band has not two")
        try:
            return parse_zones(zones, [dimension.name for dimension in self._scored])
        except CounterpointError as error:
            raise CounterpointError(f"setting {error}") from None


def evidence(said: Sequence[Feedback]) -> tuple[list[Choice], list[Rated]]:
    """Stored feedback as choices and ratings."""
    choices = [_choice(one.kind, one.features) for one in said if one.kind != "rating"]
    return choices, [Rated(one.features["rated"], float(one.rating)) for one in said if one.rating is not None]


def _choice(kind: str, features: Mapping[str, Mapping[str, float]]) -> Choice:
    if kind == "tie":
        return Choice(features["a"], features["b"], 0.5)
    return Choice(features["chosen"], features["rejected"], 1.0)


def _tells(one: Feedback, tuning: Tuning) -> bool:
    """Whether it has every feature: a dimension may be younger than what was said."""
    return all(name in features for features in one.features.values() for name in tuning.dimensions)
