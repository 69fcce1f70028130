# artifacts/runs/{arm}/seed{seed}/predictions.safetensors   log-probabilities for the whole evaluation file


rule predict:
    input:
        test=lambda wildcards: plan.subset(wildcards.arm)["test"],
        about=lambda wildcards: plan.subset(wildcards.arm)["about"],
        models=lambda wildcards: plan.every_seed(wildcards.arm, "model.safetensors"),
    output:
        plan.every_seed("{arm}", "predictions.safetensors"),
    log:
        f"{plan.logs}/predict/{{arm}}.log",
    conda:
        "../../environment.yml"
    threads: 1
    params:
        spec=lambda wildcards: plan.predict_spec(wildcards.arm),
    shell:
        "python -m ppml.stages.predict --spec {params.spec:q} --test {input.test:q} --about {input.about:q} "
        "--models {input.models:q} --outputs {output:q} > {log:q} 2>&1"
