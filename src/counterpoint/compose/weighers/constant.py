"""The constant weigher: what a profile says, at every prompt, token and layer."""

from collections.abc import Sequence

from counterpoint.types import CounterpointError, Expert, Profile, Weighting


def constant(profile: Profile, experts: Sequence[Expert]) -> Weighting:
    """Normalise a profile's weights over the experts of its dimensions: w_k = p_k / sum_j p_j.

    A dimension with several experts shares its weight among them equally. Raises CounterpointError for a wanted
    dimension that no expert serves, and for a profile that wants nothing.
    """
    wanted = {dimension: weight for dimension, weight in profile.weights.items() if weight > 0}
    total = sum(wanted.values())
    if not wanted:
        raise CounterpointError("the profile wants nothing: every weight is 0; give one dimension a positive weight")
    names: list[str] = []
    w: list[float] = []
    for dimension, weight in wanted.items():
        serving = [expert.name for expert in experts if expert.dimension == dimension]
        if not serving:
            known = ", ".join(sorted({expert.dimension for expert in experts})) or "none"
            raise CounterpointError(f"no expert serves the dimension {dimension!r}; there are experts for: {known}")
        names += serving
        w += [weight / total / len(serving)] * len(serving)
    return Weighting(tuple(names), tuple(w), profile.strength)
