# data/raw/{dataset}/*.gz            the published files, checked
# data/subsets/{subset}/             train.safetensors, test.safetensors, about.json
# data/features/{subset}/{features}/  train.safetensors, test.safetensors: what some arms are trained on instead of images
# artifacts/partitions/{dataset}/{partition}/seed{seed}.json   who owns which records


for dataset in plan.datasets():

    rule:
        name:
            f"fetch_{dataset}"
        output:
            plan.raw(dataset),
        log:
            f"{plan.logs}/fetch/{dataset}.log",
        conda:
            "../../environment.yml"
        params:
            spec=plan.fetch_spec(dataset),
            stamp=plan.stamps.of("fetch", {dataset}).text,
            # Derived from the output, so that it is not recorded: wherever the files come from, they are the same.
            sources=lambda wildcards, output: plan.sources_spec(),
        shell:
            "exec python -m ppml.stages fetch --spec {params.spec:q} --sources {params.sources:q} "
            "--outputs {output:q} > {log:q} 2>&1"


for dataset in sorted({plan.dataset(arm) for arm in plan.config.arms}):

    rule:
        name:
            f"subset_{dataset}"
        input:
            plan.opened(dataset),
        output:
            **plan.subset_files(dataset),
        log:
            f"{plan.logs}/subset/{dataset}.log",
        conda:
            "../../environment.yml"
        params:
            spec=plan.subset_spec(dataset),
            stamp=plan.stamps.of("subset", {dataset}).text,
        shell:
            "exec python -m ppml.stages subset --spec {params.spec:q} --raw {input:q} --train {output.train:q} "
            "--test {output.test:q} --about {output.about:q} > {log:q} 2>&1"


rule features:
    input:
        train=lambda wildcards: plan.subset_files(wildcards.dataset)["train"],
        test=lambda wildcards: plan.subset_files(wildcards.dataset)["test"],
    output:
        **plan.features_files("{dataset}", "{features}"),
    log:
        f"{plan.logs}/features/{{dataset}}-{{features}}.log",
    conda:
        "../../environment.yml"
    threads: 1
    params:
        spec=lambda wildcards: plan.features_spec(wildcards.features),
        stamp=lambda wildcards: plan.features_stamp(wildcards.features),
    shell:
        "exec python -m ppml.stages features --spec {params.spec:q} --train {input.train:q} --test {input.test:q} "
        "--output-train {output.train:q} --output-test {output.test:q} > {log:q} 2>&1"


rule partition:
    input:
        train=lambda wildcards: plan.subset_files(wildcards.dataset)["train"],
    output:
        plan.partition_file("{dataset}", "{partition}", "{seed}"),
    log:
        f"{plan.logs}/partition/{{dataset}}-{{partition}}-seed{{seed}}.log",
    conda:
        "../../environment.yml"
    params:
        spec=lambda wildcards: plan.partition_spec(wildcards.partition),
        stamp=lambda wildcards: plan.partition_stamp(wildcards.dataset, wildcards.partition),
        # Derived from the output, so that it is not recorded.
        key=lambda wildcards, output: plan.partition_key(wildcards.partition),
    shell:
        "exec python -m ppml.stages partition --spec {params.spec:q} --name {params.key:q} --seed {wildcards.seed} "
        "--train {input.train:q} --output {output:q} > {log:q} 2>&1"
