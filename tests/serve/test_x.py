import json, time
from pathlib import Path
def test_x(serve):
  with serve(folder=Path("/tmp/b7/h5band")) as server:
    def p(path, **b):
        t=time.time()
        r = server.http.post(path, json=b)
        print(r.status_code, round(time.time()-t,2), r.headers.get("x-counterpoint-weights"), r.text[:700]); print()
        return r.json()
    m=[{"role":"user","content":"What does the owl eat?"}]
    q = p("/v1/users/bob/pair", messages=m, max_tokens=60)
    p("/v1/feedback", user="bob", pair=q["pair"], choice="a")
    p("/v1/score", messages=m, responses=[q["a"],q["b"]])
    p("/v1/feedback", user="bob", messages=m, chosen_text="Mice.", rejected_text="The owl likes to eat many mice and voles in the woods.")
    p("/v1/users/bob/sentence", text="I am a nurse, keep it short, and be friendly", save=True)
    p("/v1/users/bob/sentence", text="I am a nurse", save=True)
    for i in range(25):
        q = server.http.post("/v1/users/eve/pair", json=dict(messages=m, max_tokens=60)).json()
        r = server.http.post("/v1/feedback", json=dict(user="eve", pair=q["pair"], choice="a" if len(q["a"])<len(q["b"]) else "b")).json()
        print(i, r["belief"]["sure"], r["belief"]["settled"], r["belief"]["profile"])
    print(server.http.get("/v1/users/eve").text)
