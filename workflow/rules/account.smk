# artifacts/runs/{arm}/seed{seed}/privacy.json   epsilon from the mechanisms that were executed


rule account:
    input:
        events=lambda wildcards: plan.every_seed(wildcards.arm, "events.json"),
    output:
        plan.every_seed("{arm}", "privacy.json"),
    log:
        f"{plan.logs}/account/{{arm}}.log",
    conda:
        "../../environment.yml"
    params:
        spec=lambda wildcards: plan.account_spec(wildcards.arm),
    shell:
        "python -m ppml.stages.account --spec {params.spec:q} --events {input.events:q} --outputs {output:q} "
        "> {log:q} 2>&1"
