# artifacts/runs/{arm}/seed{seed}/predictions.safetensors   log-probabilities for the whole evaluation file
# artifacts/runs/{arm}/seed{seed}/inference.json            predictions on encrypted images, and inference-cost.json


rule predict:
    input:
        test=lambda wildcards: plan.examples(wildcards.arm)["test"],
        about=lambda wildcards: plan.subset(wildcards.arm)["about"],
        model=lambda wildcards: plan.trained(checkpoints.calibrate, **wildcards, name="model.safetensors"),
    output:
        plan.run("{arm}", "{seed}", "predictions.safetensors"),
    log:
        f"{plan.logs}/predict/{{arm}}-seed{{seed}}.log",
    conda:
        "../../environment.yml"
    threads: 1
    params:
        spec=lambda wildcards: plan.predict_spec(wildcards.arm),
        stamp=lambda wildcards: plan.arm_stamp("predict", wildcards.arm),
    shell:
        "exec python -m ppml.stages predict --spec {params.spec:q} --test {input.test:q} --about {input.about:q} "
        "--model {input.model:q} --output {output:q} > {log:q} 2>&1"


rule infer:
    input:
        test=lambda wildcards: plan.subset(wildcards.arm)["test"],
        about=lambda wildcards: plan.subset(wildcards.arm)["about"],
        model=lambda wildcards: plan.trained(checkpoints.calibrate, **wildcards, name="model.safetensors"),
    output:
        result=plan.run("{arm}", "{seed}", "inference.json"),
        cost=plan.run("{arm}", "{seed}", "inference-cost.json"),
    log:
        f"{plan.logs}/infer/{{arm}}-seed{{seed}}.log",
    conda:
        "../../environment.yml"
    threads: 1
    params:
        spec=lambda wildcards: plan.inference_spec(wildcards.arm),
        stamp=lambda wildcards: plan.arm_stamp("infer", wildcards.arm),
    shell:
        "exec python -m ppml.stages infer --spec {params.spec:q} --test {input.test:q} --about {input.about:q} "
        "--model {input.model:q} --output {output.result:q} --output-cost {output.cost:q} > {log:q} 2>&1"
