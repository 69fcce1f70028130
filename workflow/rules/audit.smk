# artifacts/runs/{arm}/seed{seed}/audit.json   what the mechanism releases of a canary, for private arms and the first seed


# Beside training: it needs the noise that is claimed, and nothing that was learnt.
rule audit:
    input:
        about=lambda wildcards: plan.subset(wildcards.arm)["about"],
        noise=lambda wildcards: plan.calibrated(checkpoints.calibrate, **wildcards),
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
    shell:
        "exec python -m ppml.stages audit --spec {params.spec:q} --seed {wildcards.seed} --about {input.about:q} "
        "--noise {input.noise:q} --output {output:q} > {log:q} 2>&1"
