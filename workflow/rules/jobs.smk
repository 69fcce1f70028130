# data/raw/{dataset}/*.gz                                     fetch: the published files, checked
# data/subsets/{subset}/                                      subset: train.safetensors, test.safetensors, about.json
# data/transformed/{subset}/{transform}/                      transform: the same files, with other inputs
# artifacts/partitions/{dataset}/{partition}/seed{seed}.json  partition: the examples of each client
# artifacts/runs/{arm}/seed{seed}/
#   noise.json                                    calibrate: the noise of each owner, for private arms
#   model.safetensors, config.json, history.csv,
#   events.json, cost.json                        train
#   predictions.safetensors                       predict: predicted class of each evaluation example, ...
#   privacy.json                                  account: epsilon from the mechanisms that were executed
#   audit.json                                    audit: measured noise and samples, for private arms and the first seed
#   inference.json, inference-cost.json           infer: predictions of encrypted images
# reports/records.csv, costs.csv, ..., metrics/{arm}.json     collect: all runs, tidy
# reports/report.html, report.pdf                             report, pdf: all results for readers
# logs/overview.rst                                           overview: the first page of Snakemake's report

calibration = next((step for step in rules_of(RUN) if step.stage.name == "calibrate"), None)

if calibration:

    # A checkpoint: a trained model stays valid if a new calibration finds the same noise.
    checkpoint calibrate:
        input:
            unpack(inputs.of(calibration)),
        output:
            **calibration.outputs,
        log:
            calibration.log,
        conda:
            "ppml"
        threads: calibration.threads
        params:
            arguments=calibration.arguments,
        shell:
            COMMAND


for step in rules_of(DATASET, TRANSFORM, PARTITION, RUN, PROJECT):

    if step.stage.name != "calibrate":

        rule:
            name:
                step.name
            input:
                unpack(inputs.of(step)),
            output:
                **step.outputs,
            log:
                step.log,
            conda:
                "ppml"
            threads: step.threads
            params:
                arguments=step.arguments,
            shell:
                COMMAND
