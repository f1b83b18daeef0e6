"""What is learned of a person from what they chose, and when it becomes their profile; nothing here knows of HTTP.

A belief is worked out anew from what is stored, so that a restart forgets nothing.
"""

import threading
from collections.abc import Mapping, Sequence
from dataclasses import replace

from counterpoint.decode.band import Band
from counterpoint.profiles.elicit import Belief
from counterpoint.profiles.sentence import Reading, embedder, read_sentence
from counterpoint.profiles.tuning import Choice, Features, Rated, Tuning, Verdict, direction, tuning_of
from counterpoint.serve.answers import Answer
from counterpoint.serve.scorers import Scorers
from counterpoint.serve.store import Feedback, Store, User, Version
from counterpoint.types import Dimension, Profile

ENOUGH = 0.5
"""How sure a belief must be to act on: that it serves a person almost as well as any is then likelier than not."""


class Learner:
    """Learns the profiles of a band's people: by its reward models where it has them, else by who made an answer."""

    def __init__(self, band: Band, store: Store, scorers: Scorers) -> None:
        self.band = band
        self.store = store
        self.scorers = scorers
        self._reading = threading.Lock()

    @property
    def measure(self) -> Features:
        return "rewards" if len(self._scored) > 1 else "profiles"

    @property
    def tuning(self) -> Tuning:
        """Raises CounterpointError where the band has not two dimensions to choose between."""
        return tuning_of(self._scored if self.measure == "rewards" else self._served, self.measure)

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
        """What all that a person said tells of them. What was said of other features than today's tells nothing."""
        tuning = self.tuning
        said = [one for one in self.store.feedback(owner, user) if one.measure == self.measure and _tells(one, tuning)]
        return tuning.believe(*evidence(said))

    def verdict(self, owner: str, user: str) -> Verdict:
        """The same for people to read; whoever said nothing has no profile, whichever way the belief's draws fall."""
        found = self.tuning.verdict(self.belief(owner, user))
        return found if found.choices else replace(found, profile=None)

    def learn(self, owner: str, user: User, method: str) -> Verdict:
        """What is believed after new feedback, and from `ENOUGH` on the person's profile, for a `method` if it is new.

        A profile that somebody set for them stays: choices do not overrule it.
        """
        verdict = self.verdict(owner, user.name)
        before = user.current
        if verdict.sure >= ENOUGH and verdict.profile and (before is None or before.source != "set"):
            profile = self.complete(verdict.profile, before, method)
            if before is None or before.profile != profile:
                self.store.set_profile(owner, user.name, profile, "learned", before.method if before else None)
        return verdict

    def read(self, sentence: str) -> Reading:
        """What a sentence says of the dimensions; the first one waits for the embedding model, some seconds.

        Raises CounterpointError for an empty one, and where the band has not two dimensions.
        """
        with self._reading:
            return read_sentence(sentence, self._served, embedder())

    def complete(self, profile: Profile, before: Version | None, method: str) -> Profile:
        """Choices tell directions alone: the strength is the person's own, or what did best with a method."""
        best = self.band.file.strengths.get(method, 1.0)
        return Profile(profile.weights, before.profile.strength if before else best)


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
