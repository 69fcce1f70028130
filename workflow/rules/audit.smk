# artifacts/runs/{arm}/seed{seed}/audit.json   what its training releases of made-up records, for private arms and the first seed


# Beside training: it needs the noise that is claimed, and nothing that was learnt.
rule audit:
    input:
        about=lambda wildcards: plan.subset(wildcards.arm)["about"],
        partition=lambda wildcards: plan.partition_of(wildcards.arm, wildcards.seed),
        noise=lambda wildcards: plan.calibrated(checkpoints.calibrate, **wildcards),
        features=lambda wildcards: plan.audited_features(wildcards.arm),
    output:
        plan.run("{arm}", "{seed}", "audit.json"),
    log:
        f"{plan.logs}/audit/{{arm}}-seed{{seed}}.log",
    conda:
        "../../environment.yml"
    threads: 1
    params:
        spec=lambda wildcards: plan.audit_spec(wildcards.arm),
        stamp=lambda wildcards: plan.arm_stamp("audit", wildcards.arm),
        partition=lambda wildcards, input: plan.option("--partition", input.partition),
        features=lambda wildcards, input: plan.option("--features", input.features),
    shell:
        "exec python -m ppml.stages audit --spec {params.spec:q} --seed {wildcards.seed} --about {input.about:q} "
        "{params.partition} --noise {input.noise:q} {params.features} --output {output:q} > {log:q} 2>&1"
