"""The way of the reference's documents with the package as it is: put ten requests, watch the sink, and the rest.

In the package's own virtual environment: flow.py ENDPOINT TOKEN IMAGE_LINK. Prints what it saw as one JSON object.
"""

import json
import sys
import time

import urllib3
from eas_prediction import QueueClient

endpoint, token, image_link = sys.argv[1:]
service_url = f"http://{endpoint}/api/predict/sd_async"
http = urllib3.PoolManager()
seen = {"sent": {}, "received": [], "clients": {}}


def client(name):
    found = QueueClient(endpoint, name)
    found.set_token(token)
    found.init()
    return found


# Five by plain HTTP, the path of the endpoint behind the service's address, the tag as a query parameter.
for number in range(5):
    body = {"prompt": f"a lighthouse {number}", "steps": 5, "width": 8, "height": 8, "seed": number}
    answer = http.request(
        "POST",
        f"{service_url}/sdapi/v1/txt2img?task_id=txt2img_{number}",
        body=json.dumps(body),
        headers={"Authorization": token, "Content-Type": "application/json"},
    )
    assert answer.status == 200, answer.data
    seen["sent"][answer.headers["X-Eas-Queueservice-Request-Id"]] = f"txt2img_{number}"

# Five through a client of the endpoint's path, the picture by its address.
img2img = client("sd_async/sdapi/v1/img2img")
for number in range(5):
    body = {"prompt": "a cabin", "init_images": [], "steps": 5, "width": 8, "height": 8}
    body["alwayson_scripts"] = {"image_link": image_link, "id_task": f"caller-{number}", "save_dir": "tmp/outputs"}
    index, request_id = img2img.put(json.dumps(body), {"task_id": f"img2img_{number}"})
    assert int(index) == number + 6, index
    seen["sent"][request_id] = f"img2img_{number}"

input_queue, sink_queue = client("sd_async"), client("sd_async/sink")
seen["clients"]["search"] = input_queue.search(10)
watcher = sink_queue.watch(0, 5, auto_commit=False)
for item in watcher.run():
    data = json.loads(item.data.decode("utf-8"))
    seen["received"].append(
        {
            "index": item.index,
            "tags": dict(item.tags),
            "image_url": data["parameters"]["image_url"],
            "status": data["parameters"]["status"],
            "id_task": data["parameters"]["id_task"],
        }
    )
    sink_queue.commit(item.index)
    if len(seen["received"]) == 10:
        break
watcher.close()
seen["clients"]["sink_length"] = sink_queue.attributes()["stream.length"]
seen["clients"]["input"] = input_queue.attributes()
seen["clients"]["search_done"] = input_queue.search(10)

# The other calls of the client, on the sink, where no worker interferes.
puts = [sink_queue.put(f"item {number}", {"kind": "extra", "number": str(number)}) for number in range(6)]
indexes = [int(index) for index, _ in puts]
seen["clients"]["by_request_id"] = [item.data.decode() for item in sink_queue.get(request_id=puts[3][1])]
seen["clients"]["by_tags"] = [item.data.decode() for item in sink_queue.get(tags={"number": "1"}, auto_delete=False)]
seen["clients"]["by_index"] = [item.data.decode() for item in sink_queue.get(index=indexes[2], length=1)]
seen["clients"]["deleted"] = sink_queue.delete([indexes[0], indexes[4]])
seen["clients"]["left"] = [item.data.decode() for item in sink_queue.get(length=10, timeout="1s", auto_delete=False)]
sink_queue.truncate(indexes[-1] + 1)
seen["clients"]["length"] = sink_queue.attributes()["stream.length"]
# The package gives up on the socket after 5 s, the server answers a little before; a stall is worth another try.
for attempt in range(5):
    begun = time.monotonic()
    try:
        seen["clients"]["nothing"] = sink_queue.get()
    except Exception:
        if attempt == 4:
            raise
    seen["clients"]["waited"] = time.monotonic() - begun
    if seen["clients"]["waited"] < 5:
        break

# A wrong request is no silence: its result says so.
_, request_id = client("sd_async/sdapi/v1/txt2img").put("{broken", {"task_id": "broken"})
for _ in range(20):
    if found := sink_queue.get(request_id=request_id, timeout="4s"):
        break
(failed,) = found
seen["failed"] = {"tags": dict(failed.tags), "status": json.loads(failed.data)["parameters"]["status"]}
print(json.dumps(seen))
