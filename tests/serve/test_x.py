import json
def test_x(server):
    def p(path, **b):
        r = server.http.post(path, json=b)
        print(r.status_code, r.headers.get("x-counterpoint-weights"), r.text[:1200]); print()
    c="/v1/chat/completions"; m=[{"role":"user","content":"hi"}]
    p(c, model="soup:warm=2;terse", messages=m, max_tokens=5, logprobs=True, top_logprobs=1, trace=True, n=2, seed=1)
    p(c, model="mixture-prob:warm=2,terse", messages=m, max_tokens=5, trace=True, stream=True, stream_options={"include_usage":True}, logprobs=True)
    p(c, model="arrow:warm=2,terse", messages=m, max_tokens=5, trace=True, stream=True)
    p(c, model="soap", messages=m); p(c, model="soup:wram", messages=m); p(c, messages=m, profle=1); p(c, messages=m, tools=[1])
    d="/v1/completions"
    p(d, prompt="hello the", echo=True, logprobs=1, max_tokens=1, temperature=0)
    p(d, prompt=[[1,5,6],[1,9]], echo=True, logprobs=1, max_tokens=0, model="moe:warm")
    p(d, prompt=["ab","cd"], n=2, max_tokens=3, stream=True, echo=True, seed=3)
    p(d, prompt=[1]*600); p(d, prompt=[100000]); p(d, prompt="x", model="prompted:warm", max_tokens=3)
    for u in ("/v1/models", "/v1/models/soup:warm=1", "/v1/models/foo", "/v1/nothing"):
        r=server.http.get(u); print(r.status_code, r.text[:500])
