# artifacts/runs/{arm}/seed{seed}/privacy.json   epsilon from the mechanisms that were executed


rule account:
    input:
        events=lambda wildcards: plan.trained(checkpoints.calibrate, **wildcards, name="events.json"),
    output:
        plan.run("{arm}", "{seed}", "privacy.json"),
    log:
        f"{plan.logs}/account/{{arm}}-seed{{seed}}.log",
    conda:
        "../../environment.yml"
    threads: lambda wildcards: plan.owners_at_once(wildcards.arm)
    params:
        spec=lambda wildcards: plan.account_spec(wildcards.arm),
        stamp=lambda wildcards: plan.arm_stamp("account", wildcards.arm),
    shell:
        "exec python -m ppml.stages account --spec {params.spec:q} --events {input.events:q} --output {output:q} "
        "--workers {threads} > {log:q} 2>&1"
