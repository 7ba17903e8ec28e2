"""Runs in an environment of its own: NVIDIA's client of the Open Inference Protocol against a served policy.

The job comes as JSON on standard input, what was found goes as JSON to standard output.
"""

from __future__ import annotations

import json
import sys

import numpy as np
import tritonclient.grpc as triton
from tritonclient.utils import InferenceServerException


def main() -> None:
    job = json.loads(sys.stdin.read())
    client = triton.InferenceServerClient(job["address"])
    answers = {name: globals()[name](client, **arguments) for name, arguments in job["ask"]}
    print(json.dumps(answers))


def about(client, model):
    metadata = client.get_model_metadata(model, as_json=True)
    config = client.get_model_config(model, as_json=True)
    return {
        "live": client.is_server_live(),
        "ready": client.is_server_ready(),
        "model_ready": client.is_model_ready(model),
        "unknown_ready": client.is_model_ready("nobody"),
        "server": client.get_server_metadata(as_json=True)["name"],
        "metadata": metadata,
        "config": config["config"],
    }


def infer(client, model, version, tensors, outputs):
    """Every tensor is ``[name, datatype, values]``; gives the outputs as lists."""
    given = []
    for name, datatype, values in tensors:
        array = np.array(values, triton.triton_to_np_dtype(datatype) if datatype != "BYTES" else np.object_)
        tensor = triton.InferInput(name, array.shape, datatype)
        tensor.set_data_from_numpy(array)
        given.append(tensor)
    wanted = [triton.InferRequestedOutput(name) for name in outputs] or None
    answer = client.infer(model, given, model_version=version, outputs=wanted, request_id="17")
    response = answer.get_response()
    assert response.id == "17"
    found = {output.name: answer.as_numpy(output.name).tolist() for output in response.outputs}
    return {"version": response.model_version, **found}


def stateful(client, model, rows):
    """An episode; the state goes back as it came."""
    state, actions = np.array([[b""]], np.object_), []
    for row in rows:
        observation = triton.InferInput("observation", (1, len(row)), "FP32")
        observation.set_data_from_numpy(np.array([row], np.float32))
        before = triton.InferInput("state", state.shape, "BYTES")
        before.set_data_from_numpy(state)
        answer = client.infer(model, [observation, before])
        state = answer.as_numpy("state")
        actions.append(int(answer.as_numpy("action")[0]))
    return actions


def states(client):
    models = client.get_model_repository_index(as_json=True)["models"]
    return {(model["name"], model["version"]): model["state"] for model in models}


def repository(client, model):
    client.load_model(model)
    loaded = states(client)
    client.unload_model(model)
    newest = max(version for name, version in loaded if name == model)
    return [loaded[model, newest], states(client)[model, newest]]


def refusals(client, calls):
    found = []
    for arguments in calls:
        try:
            infer(client, **arguments)
            found.append(["no refusal", ""])
        except InferenceServerException as error:
            found.append([error.status(), error.message()])
    return found


if __name__ == "__main__":
    main()
