"""What the JSON endpoints show, and what they must not."""

import json

from fastmesh.admin import views
from fastmesh.admin.control import ReloadOutcome
from fastmesh.errors import Problem
from fastmesh.model import Admin, Config
from support.admin_api import AT, FakeControl, example_config


def test_secrets_and_the_token_are_masked():
    config = example_config()
    control = FakeControl(
        Config(config.listeners, config.services, admin=Admin(":1", "tok"), secrets=config.secrets)
    )
    problem = Problem(file="f", line=1, column=1, message="bad s3cret-value", source_line="k: s3cret-value")
    control.outcome = ReloadOutcome("refused", AT, problems=(problem,))
    text = json.dumps(views.config_view(control))
    assert "s3cret-value" not in text
    shown = json.loads(text)
    assert shown["config"]["admin"]["token"] == "***"
    assert shown["config"]["listeners"]["web"]["routes"][1]["headers"] == {"x-key": "***"}
    assert shown["last_reload"]["problems"][0]["message"] == "bad ***"
    assert shown["file"] == "fastmesh.yaml"


def test_a_secret_within_a_secret_is_masked_whole():
    assert views.mask(["xabcdefx", 3], ("cdef", "abcdef", "")) == ["x***x", 3]


def test_services_show_their_endpoints_and_resolved_names():
    control = FakeControl()
    view = views.services_view(control.stats(), control.resolved())
    assert view["services"][0]["endpoints"][0]["address"] == "10.0.0.1:80"
    assert view["resolved"] == {"api:80": ["10.1.1.1:80"]}


def test_listeners_and_workers():
    stats = FakeControl().stats()
    assert views.listeners_view(stats)["listeners"][0]["listener"] == "web"
    assert [worker["index"] for worker in views.workers_view(stats)["workers"]] == [0, 1]
