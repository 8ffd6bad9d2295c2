"""Put an exported model into the repository in one step; ``adaresnet import`` does it likewise."""

from __future__ import annotations

from service.engine.publish import PublishError, check_name, publish, write_file

__all__ = ["PublishError", "check_name", "publish", "write_file"]
