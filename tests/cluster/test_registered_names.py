"""Registered models belong to the namespace that registers the first version."""

from collections.abc import Iterator
from typing import Any

import pytest
from kubetune_devcluster.cluster import LocalCluster
from mlflow import MlflowClient

from tests.cluster.namespace import Namespace, condition
from tests.cluster.operator_process import Operator
from tests.cluster.subjects import Subjects
from tests.cluster.tracked_run import finished

pytestmark = pytest.mark.cluster
