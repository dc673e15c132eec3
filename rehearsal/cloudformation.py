"""Makes moto's CloudFormation answer as AWS does where `fruits emr deploy` and `destroy` depend on it."""

import json
from collections.abc import Callable
from typing import Any

from moto.cloudformation import models, parsing
from moto.cloudformation.exceptions import ValidationError
from moto.cloudformation.models import Change, ChangeSet, CloudFormationBackend, Event, Stack
from moto.cloudformation.parsing import ResourceMap
from moto.cloudformation.responses import CloudFormationResponse
from moto.core.responses import ActionResult
from moto.iam.models import ManagedPolicy
from moto.s3.models import FakeBucket, s3_backends
from moto.utilities.utils import get_partition


def install() -> None:
    """Changes moto in this process.

    - UpdateTerminationProtection exists, and DeleteStack refuses a protected stack:
      https://docs.aws.amazon.com/AWSCloudFormation/latest/UserGuide/using-cfn-protect-stacks.html
    - A change set that changes nothing fails by its status, and CreateChangeSet succeeds. A change set names
      the resources that it replaces or removes: https://docs.aws.amazon.com/AWSCloudFormation/latest/APIReference/API_ResourceChange.html
    - The execution of a change set updates outputs, parameters, tags and managed policies, and respects
      conditions.
    - A bucket with objects fails the deletion of its stack: https://github.com/aws/aws-cdk/issues/21776
    - The zones of no named region are those of the stack's region:
      https://docs.aws.amazon.com/AWSCloudFormation/latest/UserGuide/intrinsic-function-reference-getavailabilityzones.html
    """
    api: Any = CloudFormationResponse
    api.update_termination_protection = _update_termination_protection
    # CreateChangeSet of moto asks this, and raises the error of UpdateStack.
    api._validate_different_update = lambda self, *_: None
    change_set: Any = ChangeSet
    change_set.diff, change_set.apply = _diff, _apply
    resources: Any = ResourceMap
    resources.build_resource_diff = _names_by_action
    policy: Any = ManagedPolicy
    policy.update_from_cloudformation_json = classmethod(_update_policy)
    backend: Any = CloudFormationBackend
    if backend.delete_stack.__module__ == models.__name__:
        backend.delete_stack = _checked(backend.delete_stack)
        functions: Any = parsing
        functions.clean_json = _with_zones(parsing.clean_json)


def _update_termination_protection(self: Any) -> ActionResult:
    stack = self.cloudformation_backend.get_stack(self._get_param("StackName"))
    stack.enable_termination_protection = self._get_param("EnableTerminationProtection")
    return ActionResult({"StackId": stack.stack_id})


def _checked(delete_stack: Callable[[Any, str], None]) -> Callable[[Any, str], None]:
    def delete(self: CloudFormationBackend, name_or_stack_id: str) -> None:
        try:
            stack = self.get_stack(name_or_stack_id)
        except ValidationError:
            return  # as AWS: the deletion of a stack that does not exist succeeds
        if stack.enable_termination_protection:
            raise ValidationError(
                message=f"Stack [{stack.name}] cannot be deleted while TerminationProtection is enabled"
            )
        full = _full_bucket(stack)
        if full is None:
            return delete_stack(self, stack.stack_id)
        stack._add_stack_event("DELETE_IN_PROGRESS", resource_status_reason="User Initiated")
        reason = "The bucket you tried to delete is not empty (Service: S3, Status Code: 409, BucketNotEmpty)"
        names = stack.stack_id, stack.name
        stack.events.append(Event(*names, full, "", "AWS::S3::Bucket", "DELETE_FAILED", reason, None))
        stack.status = "DELETE_FAILED"

    return delete


def _with_zones(clean_json: Callable[[Any, ResourceMap], Any]) -> Callable[[Any, ResourceMap], Any]:
    def clean(value: Any, resources: ResourceMap) -> Any:
        if value == {"Fn::GetAZs": ""}:
            value = {"Fn::GetAZs": resources["AWS::Region"]}
        return clean_json(value, resources)

    return clean


def _full_bucket(stack: Stack) -> str | None:
    """The logical id of a bucket of the stack that has objects or old versions."""
    buckets = s3_backends[stack.account_id][get_partition(stack.region_name)].buckets
    for name, resource in stack.resource_map._parsed_resources.items():
        if isinstance(resource, FakeBucket) and resource.name in buckets and buckets[resource.name].keys:
            return name
    return None


def _apply(self: ChangeSet) -> None:
    resources = self.stack.resource_map._parsed_resources
    before = dict(resources)
    self.stack.update(self.template, self.role_arn, self.parameters, self.tags)
    for change in self.changes:
        if change.action == "Remove":
            resources.pop(change.logical_resource_id, None)
    # moto forgets a resource that it cannot update, as a managed policy.
    for name, resource in resources.items():
        if resource is None:
            resources[name] = before.get(name)


def _update_policy(
    cls: Any, /, *, original_resource: ManagedPolicy, cloudformation_json: dict[str, Any], **_: Any
) -> ManagedPolicy:
    document = json.dumps(cloudformation_json["Properties"]["PolicyDocument"])
    original_resource.versions[-1].document = document
    return original_resource


def _diff(self: ChangeSet) -> list[Change]:
    return _changes(self.stack.resource_map, self.template_dict, self.parameters)


def _names_by_action(
    self: ResourceMap, other_template: dict[str, Any], parameters: dict[str, Any] | None = None
) -> dict[str, list[str]]:
    changes = _changes(self, other_template, parameters or self.input_parameters)
    return {
        action: [
            change.logical_resource_id
            for change in changes
            # moto has made nothing of a type that it does not know.
            if change.action == action
            and (action != "Remove" or change.logical_resource_id in self._parsed_resources)
        ]
        for action in ("Add", "Modify", "Remove")
    }


def _changes(old: ResourceMap, template: dict[str, Any], parameters: dict[str, Any]) -> list[Change]:
    """The changes of a stack's resources that another template and other parameters make."""
    pseudo = old._parsed_resources
    new = ResourceMap(
        old.stack_id,
        pseudo["AWS::StackName"],
        parameters,
        {},
        pseudo["AWS::Region"],
        pseudo["AWS::AccountId"],
        template,
        {},
    )
    new.load()
    changed = {
        *_different(old.resolved_parameters, new.resolved_parameters),
        *_different(dict(old.lazy_condition_map), dict(new.lazy_condition_map)),
    }
    before, after = _present(old), _present(new)
    changes = [
        *(Change("Remove", name, before[name]["Type"]) for name in before.keys() - after.keys()),
        *(Change("Add", name, after[name]["Type"]) for name in after.keys() - before.keys()),
    ]
    for name in before.keys() & after.keys():
        ours, theirs = (each[name].get("Properties", {}) for each in (before, after))
        touched = {
            key
            for key in ours.keys() | theirs.keys()
            if ours.get(key) != theirs.get(key) or _mentions(theirs.get(key), changed)
        }
        if touched:
            change: Any = Change("Modify", name, after[name]["Type"])
            change.replacement = str(bool(touched & _create_only(after[name]["Type"])))
            changes.append(change)
    return changes


def _present(resources: ResourceMap) -> dict[str, Any]:
    """The resources of a template whose condition holds."""
    return {
        name: resource
        for name, resource in resources._resource_json_map.items()
        if "Condition" not in resource or resources.lazy_condition_map[resource["Condition"]]
    }


def _different(old: dict[str, Any], new: dict[str, Any]) -> set[str]:
    return {name for name in old.keys() | new.keys() if str(old.get(name)) != str(new.get(name))}


def _mentions(value: Any, names: set[str]) -> bool:
    """Whether a property refers to one of the parameters or conditions."""
    text = json.dumps(value)
    return any(f'"{name}"' in text or f"${{{name}}}" in text for name in names)


def _create_only(kind: str) -> set[str]:
    """Properties whose change replaces a resource, by AWS's schema of its type, which cfn-lint contains."""
    from cfnlint.schema.manager import PROVIDER_SCHEMA_MANAGER

    schema = PROVIDER_SCHEMA_MANAGER.get_resource_schema("eu-west-3", kind).schema
    return {path.split("/")[2] for path in schema.get("createOnlyProperties", [])}
