# reports/tables/{experiment}-{kind}.md, .csv, .tex, .html  table
# reports/figures/{experiment}-{kind}.svg, .png             figure


def with_report(step, suffix, category):
    """Mark one output of a table or figure as a part of the HTML report."""
    kind = step.fixed["kind"]
    labels = {"experiment": "{experiment}", "shows": kind.replace("_", " ")}
    marked = report(step.outputs[suffix], caption=f"../report/{kind}.rst", category=category, labels=labels)
    return {**step.outputs, suffix: marked}


for level, suffix, category in ((TABLE, "html", "2. Tables"), (FIGURE, "svg", "1. Figures")):

    for step in rules_of(level):

        rule:
            name:
                step.name
            input:
                unpack(inputs.of(step)),
            output:
                **with_report(step, suffix, category),
            log:
                step.log,
            conda:
                "ppml"
            params:
                arguments=step.arguments,
                # The captions of the HTML report use these.
                title=lambda wildcards: plan.config.experiments[wildcards.experiment].title,
                fallback=plan.fallback_sentence(),
            shell:
                COMMAND
