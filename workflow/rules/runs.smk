# artifacts/runs/{arm}/seed{seed}/
#   noise.json                                    calibrate: the noise of each owner, for private arms
#   model.safetensors, config.json, history.csv,
#   events.json, cost.json                        train
#   predictions.safetensors                       predict: log-probabilities for the whole evaluation file
#   privacy.json                                  account: epsilon from the mechanisms that were executed
#   audit.json                                    audit: measured noise and samples, for private arms and the first seed
#   inference.json, inference-cost.json           infer: predictions of encrypted images

calibration = next((step for step in rules_of(RUN) if step.stage.name == "calibrate"), None)

if calibration:

    # A checkpoint, so that a trained model stays if a new calibration finds the same noise.
    checkpoint calibrate:
        input:
            unpack(calibration.inputs),
        output:
            **calibration.outputs,
        log:
            calibration.log,
        conda:
            "../../environment.yml"
        threads: calibration.threads
        params:
            spec=calibration.spec,
            digest=calibration.digest,
            arguments=calibration.arguments,
        shell:
            "exec python -m ppml.stages {params.arguments} > {log:q} 2>&1"


def after_calibration(step):
    """Return an input function that asks for the noise of a private arm first."""

    def inputs(wildcards):
        if step.stage.needs_noise and plan.is_private(wildcards.arm):
            checkpoints.calibrate.get(arm=wildcards.arm, seed=wildcards.seed)
        return step.inputs(wildcards)

    return inputs


for step in rules_of(RUN):

    if step.stage.name != "calibrate":

        rule:
            name:
                step.name
            input:
                unpack(after_calibration(step)),
            output:
                **step.outputs,
            log:
                step.log,
            conda:
                "../../environment.yml"
            threads: step.threads
            params:
                spec=step.spec,
                digest=step.digest,
                arguments=step.arguments,
            shell:
                "exec python -m ppml.stages {params.arguments} > {log:q} 2>&1"
