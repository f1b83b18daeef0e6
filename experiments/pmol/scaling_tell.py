"""How well the pairs that a gate learns from can be told apart by preference at all: a bound on what a router can do.

A router is asked to tell, from a token and what stands before it, of which preference its pair is; both responses of a
pair have that label. Here logistic regression is asked the same of the words of whole texts, of prompts that it has not
learned from.
"""

from collections.abc import Sequence

from sklearn.feature_extraction.text import CountVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GroupKFold, cross_val_score
from sklearn.pipeline import make_pipeline

from counterpoint.build.present import text_of
from counterpoint.types import Comparison

FOLDS = 5


def tellable(pairs: Sequence[Comparison]) -> float:
    """The share of texts whose preference is told from their words, of all that are compared."""
    texts = [f"{text_of(c.prompt)} {said}" for c in pairs for said in (c.chosen, c.rejected)]
    labels = [c.dimension for c in pairs for _ in range(2)]
    prompts = [text_of(c.prompt) for c in pairs for _ in range(2)]
    reader = make_pipeline(CountVectorizer(binary=True), LogisticRegression(C=0.1, max_iter=1000))
    share = cross_val_score(reader, texts, labels, groups=prompts, cv=GroupKFold(FOLDS)).mean()
    return round(float(share), 4)
