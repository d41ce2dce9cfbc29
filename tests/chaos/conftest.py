"""The fixtures of the tests of CML, for its bad days."""

from tests.cml.conftest import cml_jobs, cml_module, cml_operator, cmlapi_path

__all__ = ["cml_jobs", "cml_module", "cml_operator", "cmlapi_path"]
