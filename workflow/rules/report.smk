# reports/records.csv, costs.csv, history.csv, clients.csv, epsilons.csv, audits.csv, inferences.csv, joint.csv, metrics.json   all runs, tidy
# reports/tables/{experiment}-{kind}.md, .csv, .tex, .html
# reports/figures/{experiment}-{kind}.svg, .png


rule collect:
    input:
        plan.every_run(*RUN_FILES[:-1]),
        sorted({file for arm, seed in plan.runs for file in plan.partition_of(arm, seed)}),
        plan.audits(),
        plan.inferences(),
    output:
        plan.every_run("record.json"),
        **plan.collected(),
        metrics=plan.metrics(),
    log:
        f"{plan.logs}/collect.log",
    conda:
        "../../environment.yml"
    params:
        spec=plan.collect_spec(),
        stamp=plan.stamps.of("collect").text,
    shell:
        "exec python -m ppml.stages collect --spec {params.spec:q} --output-records {output.records:q} "
        "--output-costs {output.costs:q} --output-history {output.history:q} --output-clients {output.clients:q} "
        "--output-epsilons {output.epsilons:q} "
        "--output-audits {output.audits:q} --output-inferences {output.inferences:q} --output-joint {output.joint:q} "
        "--output-metrics {output.metrics:q} > {log:q} 2>&1"


for kind in plan.table_kinds():

    rule:
        name:
            f"table_{kind}"
        input:
            **plan.collected(),
        output:
            md=f"{plan.reports}/tables/{{experiment}}-{kind}.md",
            csv=f"{plan.reports}/tables/{{experiment}}-{kind}.csv",
            tex=f"{plan.reports}/tables/{{experiment}}-{kind}.tex",
            html=report(
                f"{plan.reports}/tables/{{experiment}}-{kind}.html",
                caption=f"../report/{kind}.rst",
                category="2. Tables",
                labels={"experiment": "{experiment}", "shows": kind.replace("_", " ")},
            ),
        log:
            f"{plan.logs}/table/{{experiment}}-{kind}.log",
        conda:
            "../../environment.yml"
        params:
            spec=lambda wildcards: plan.show_spec(wildcards.experiment),
            stamp=plan.stamps.of("table").text,
            published=lambda wildcards, kind=kind: plan.published_spec(wildcards.experiment, kind),
            kind=kind,
            title=lambda wildcards: plan.config.experiments[wildcards.experiment].title,
            fallback=plan.fallback_sentence(),
        shell:
            "exec python -m ppml.stages table --spec {params.spec:q} --kind {params.kind} --records {input.records:q} "
            "--costs {input.costs:q} --history {input.history:q} --audits {input.audits:q} "
            "--inferences {input.inferences:q} --joint {input.joint:q} --published {params.published:q} --output-md {output.md:q} "
            "--output-csv {output.csv:q} --output-tex {output.tex:q} --output-html {output.html:q} > {log:q} 2>&1"


for kind in plan.figure_kinds():

    rule:
        name:
            f"figure_{kind}"
        input:
            **plan.collected(),
        output:
            svg=report(
                f"{plan.reports}/figures/{{experiment}}-{kind}.svg",
                caption=f"../report/{kind}.rst",
                category="1. Figures",
                labels={"experiment": "{experiment}", "shows": kind.replace("_", " ")},
            ),
            png=f"{plan.reports}/figures/{{experiment}}-{kind}.png",
        log:
            f"{plan.logs}/figure/{{experiment}}-{kind}.log",
        conda:
            "../../environment.yml"
        params:
            spec=lambda wildcards: plan.show_spec(wildcards.experiment),
            stamp=plan.stamps.of("figure").text,
            published=lambda wildcards, kind=kind: plan.published_spec(wildcards.experiment, kind),
            kind=kind,
            title=lambda wildcards: plan.config.experiments[wildcards.experiment].title,
            fallback=plan.fallback_sentence(),
        shell:
            "exec python -m ppml.stages figure --spec {params.spec:q} --kind {params.kind} --records {input.records:q} "
            "--costs {input.costs:q} --history {input.history:q} --clients {input.clients:q} "
            "--epsilons {input.epsilons:q} --audits {input.audits:q} --published {params.published:q} "
            "--output-svg {output.svg:q} --output-png {output.png:q} > {log:q} 2>&1"


rule overview:
    input:
        figures=[figure for figure in plan.figures() if figure.endswith(".svg")],
        intro=project_file("workflow/report/workflow.rst"),
        captions=[project_file(f"workflow/report/{kind}.rst") for kind in plan.figure_kinds()],
    output:
        plan.overview,
    log:
        f"{plan.logs}/overview.log",
    conda:
        "../../environment.yml"
    params:
        # A function, so that braces in titles are no wildcards.
        spec=lambda wildcards: plan.overview_spec(),
        stamp=plan.stamps.of("overview").text,
    shell:
        "exec python -m ppml.stages overview --spec {params.spec:q} --intro {input.intro:q} --captions {input.captions:q} "
        "--figures {input.figures:q} --output {output:q} > {log:q} 2>&1"
