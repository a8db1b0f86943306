"""Secrets do not show."""

from fastmesh.model import Admin, Config, Secrets


def test_a_token_is_not_part_of_any_text() -> None:
    config = Config({}, {}, admin=Admin("127.0.0.1:1", "hunter2"), secrets=Secrets(("hunter2", "other")))
    assert "hunter2" not in repr(config)
    assert repr(config.admin) == "Admin(bind='127.0.0.1:1', token='***')"
    assert repr(Admin(None)) == "Admin(bind=None, token=None)"
    assert repr(config.secrets) == "Secrets(2 masked)"
