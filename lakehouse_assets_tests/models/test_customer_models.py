"""The models of customers stand on the contract of their feature table, and learn from nothing that is known later."""

import pytest

from lakehouse_assets.features import customer
from lakehouse_assets.ml.definition import ModelDefinition
from lakehouse_assets.ml.entity_kind import EntityKind
from lakehouse_assets.models.customer_churn import customer_churn
from lakehouse_assets.models.customer_value import customer_value

TARGETS = {"churned", "margin_12m"}


@pytest.mark.parametrize("model", [customer_churn, customer_value], ids=lambda model: model.name)
def test_no_target_is_an_input(model: ModelDefinition) -> None:
    kind = model.kind
    assert isinstance(kind, EntityKind)
    assert model.target == kind.target
    assert model.features == customer.KEY.to_user_string()
    data = kind.dataset(customer.contract().create_empty().lazy())
    assert data.numbers
    assert not TARGETS & {*data.numbers, *data.categories}
    assert {kind.target, *kind.outcomes} == TARGETS


def test_churn_is_known_when_the_features_say_so() -> None:
    assert isinstance(customer_churn.kind, EntityKind)
    assert customer_churn.kind.label_days == customer.LABEL_DAYS
