# data/raw/{dataset}/*.gz                                     fetch: the published files, checked
# data/subsets/{subset}/                                      subset: train.safetensors, test.safetensors, about.json
# data/transformed/{subset}/{transform}/                      transform: the same files, with other inputs
# artifacts/partitions/{dataset}/{partition}/seed{seed}.json  partition: the examples of each client


for step in rules_of(DATASET, TRANSFORM, PARTITION):

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
            "../../environment.yml"
        threads: step.threads
        params:
            arguments=step.arguments,
        shell:
            "exec python -m ppml.jobs {params.arguments} > {log:q} 2>&1"
