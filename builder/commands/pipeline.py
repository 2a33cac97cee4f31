"""The command `builder pipeline`."""

from __future__ import annotations

from builder.commands.output import print_published
from builder.object_pipeline.config import PipelineRequest
from tritonkit.options import options_of
from tritonkit.system.console import JsonOption, print_json, progress, reports_errors


@reports_errors
@options_of(PipelineRequest)
def pipeline(request: PipelineRequest, as_json: JsonOption = False) -> None:
    """Publish two models as one: a picture in; boxes, masks and labels of its objects out.

    A segmenter finds the objects, which are cut out and classified. The pipeline calls both models in Triton. It is
    verified as served: its answers must equal its steps done one after the other. Exit 1 if they do not; nothing is
    published then.

    Examples:

    * builder pipeline people.yaml

    * builder pipeline people.yaml --repository model_repository --json
    """
    from builder.object_pipeline.publish import publish_pipeline

    with progress("reading the models") as report:
        published = publish_pipeline(request, report)
    if as_json:
        print_json(published)
        return
    print_published(published, f"verified by: {published.verdict.proven_by}", published.source)
