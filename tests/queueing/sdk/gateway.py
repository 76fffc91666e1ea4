"""The synchronous client of the package, which signs its requests: gateway.py ENDPOINT TOKEN."""

import json
import sys

from eas_prediction import PredictClient, StringRequest
from eas_prediction.exception import PredictException

endpoint, token = sys.argv[1:]


def predict(name, key, body):
    client = PredictClient(endpoint, name)
    client.set_token(key)
    client.init()
    try:
        return 200, json.loads(client.predict(StringRequest(json.dumps(body))).response_data)
    except PredictException as error:
        return error.code, str(error)


body = {"prompt": "a lighthouse", "steps": 5, "width": 8, "height": 8}
status, answer = predict("sd_async/sdapi/v1/txt2img", token, body)
root, _ = predict("sd_async", token, body)
print(
    json.dumps(
        {
            "status": status,
            "images": len(answer["images"]),
            "root": root,
            "wrong_token": predict("sd_async/sdapi/v1/txt2img", "wrong", body)[0],
            "bad_value": predict("sd_async/sdapi/v1/txt2img", token, {"steps": "many"})[0],
        }
    )
)
