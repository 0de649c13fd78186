import dagster as dg
import pytest

from lakehouse_assets.registry.resource import MlflowResource, RegistryResource
from lakehouse_assets.registry.tracking import Registry

STOCK = "dagster-mlflow leaves the run RUNNING without its hook"


def resource(registry: Registry) -> RegistryResource:
    return RegistryResource(tracking_uri=registry.store.tracking_uri, artifact_root=registry.store.artifact_root)


def stored_runs(registry: Registry) -> list[tuple[str, str]]:
    experiments = [experiment.experiment_id for experiment in registry.client.search_experiments()]
    runs = registry.client.search_runs(experiments, order_by=["attributes.start_time"])
    return [(run.data.tags["dagster_run_id"], run.info.status) for run in runs]


def test_the_registry_is_a_resource(registry: Registry) -> None:
    @dg.asset
    def trained(context: dg.AssetExecutionContext, registry: RegistryResource) -> None:
        with registry.registry().run("demand", "training", dagster_run_id=context.run_id):
            pass

    result = dg.materialize([trained], resources={"registry": resource(registry)})
    assert stored_runs(registry) == [(result.run_id, "FINISHED")]


@pytest.mark.xfail(reason=STOCK, strict=True)
@pytest.mark.usefixtures("clean_mlflow")
def test_stock_resource_closes_its_run(registry: Registry) -> None:
    from dagster_mlflow import mlflow_tracking

    @dg.asset(required_resource_keys={"mlflow"})
    def trained(context: dg.AssetExecutionContext) -> None:
        context.resources.mlflow.log_metric("mae", 1.0)

    registry.experiment_id("stock")
    config = {"experiment_name": "stock", "mlflow_tracking_uri": registry.store.tracking_uri, "env": {}}
    stock = mlflow_tracking.configured({**config, "extra_tags": {}})
    result = dg.materialize([trained], resources={"mlflow": stock})
    assert stored_runs(registry) == [(result.run_id, "FINISHED")]


@pytest.mark.usefixtures("clean_mlflow")
def test_each_materialisation_has_a_run_of_its_own_that_ends(registry: Registry) -> None:
    import mlflow as plain
    from dagster_mlflow.resources import MlFlow

    @dg.asset
    def first(context: dg.AssetExecutionContext, mlflow: MlflowResource) -> None:
        with mlflow.run(context, tags={"kind": "a"}) as mlf:
            assert isinstance(mlf, MlFlow)
            mlf.log_params({"depth": 1})
            plain.log_metric("mae", 1.0)
            with pytest.raises(RuntimeError, match="still active"), mlflow.run(context):
                pass

    @dg.asset(required_resource_keys={"mlflow"}, deps=[first])
    def second(context: dg.AssetExecutionContext) -> None:
        with context.resources.mlflow.run(context) as mlf:
            mlf.log_params({"depth": 2})  # MLflow would refuse to change it in the run of `first`
            raise ValueError("no")

    resources = {
        "mlflow": MlflowResource(registry=resource(registry), experiment_name="demand", extra_tags={"team": "energy"})
    }
    plain.set_tracking_uri(registry.store.tracking_uri + ".other")
    result = dg.materialize([first, second], resources=resources, raise_on_error=False)
    assert [event.step_key for event in result.get_step_failure_events()] == ["second"]
    assert plain.get_tracking_uri() == registry.store.tracking_uri + ".other"
    assert stored_runs(registry) == [(result.run_id, "FINISHED"), (result.run_id, "FAILED")]
    runs = registry.client.search_runs([registry.experiment_id("demand")], order_by=["attributes.start_time"])
    assert [run.info.run_name for run in runs] == ["first", "second"]
    assert [run.data.params for run in runs] == [{"depth": "1"}, {"depth": "2"}]
    assert runs[0].data.metrics == {"mae": 1.0}
    assert {runs[0].data.tags[key] for key in ("team", "kind")} == {"energy", "a"}
