"""A contract for import-linter: modules may import the named libraries and no others.

import-linter's own "forbidden" contract lists what is wrong: what nobody listed passes. This one
lists what is right: a new module or a new library breaks it until somebody decides.
"""

from __future__ import annotations

import sys
from typing import Any

from grimp import ImportGraph
from importlinter import Contract, ContractCheck, fields, output
from importlinter.application import contract_utils
from importlinter.domain.helpers import module_expressions_to_modules


class AllowlistContract(Contract):
    """All modules of the root package import only these external packages.

    Configuration options:
        allowed_packages: top-level names.
        standard_library: whether all of it is allowed, too (default: no).
        exempt_modules: modules or packages that may import anything (optional).
        ignore_imports: single imports that are allowed as well (optional).
    """

    type_name = "allowlist"

    allowed_packages = fields.SetField(subfield=fields.StringField())
    standard_library = fields.BooleanField(required=False, default=False)
    exempt_modules = fields.SetField(subfield=fields.ModuleExpressionField(), required=False)
    ignore_imports = fields.SetField(subfield=fields.ImportExpressionField(), required=False)

    def check(self, graph: ImportGraph, verbose: bool) -> ContractCheck:  # noqa: ARG002, FBT001
        """Find each direct import that is not allowed."""
        settings: Any = self
        removal = contract_utils.remove_ignored_imports_and_report(
            graph=graph,
            ignore_imports=settings.ignore_imports,
            unmatched_alerting=contract_utils.AlertLevel.ERROR,
        )
        roots = set(self.session_options["root_packages"])
        allowed = roots | settings.allowed_packages
        if settings.standard_library:
            allowed |= sys.stdlib_module_names
        exempt = {
            module.name
            for module in module_expressions_to_modules(graph, settings.exempt_modules or set())
        }
        found = [
            (importer, imported)
            for importer in sorted(graph.modules - exempt)
            if importer.split(".")[0] in roots
            and not any(importer.startswith(f"{package}.") for package in exempt)
            for imported in sorted(graph.find_modules_directly_imported_by(importer))
            if imported.split(".")[0] not in allowed
        ]
        return ContractCheck(
            kept=not found, warnings=list(removal.warnings), metadata={"found": found}
        )

    def render_broken_contract(self, check: ContractCheck) -> None:
        """Name the imports."""
        for importer, imported in check.metadata["found"]:
            output.print_error(f"{importer} may not import {imported}")
