"""The contract: resource models, the run plan and the outcome.

Pure data with validation. Both the operator and the runner import it, so nothing here
imports kopf, a client or a training library.
"""

from typing import Any

GROUP = "kubetune.io"
VERSION = "v1alpha1"
API_VERSION = f"{GROUP}/{VERSION}"

JsonObject = dict[str, Any]
"""A JSON object as it came from the wire, or goes there."""
