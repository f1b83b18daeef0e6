import asyncio, shutil, threading
from dataclasses import replace
from counterpoint.decode.band import Band
from counterpoint.decode.sampling import Sampling
from counterpoint.serve.worker import Worker
from counterpoint.models.band_file import remove_expert
from counterpoint.profiles import parse_profile

def test_removed(band_folder, tmp_path):
    folder = tmp_path/"band"; shutil.copytree(band_folder, folder)
    band = Band.load(folder)
    async def go():
        w = Worker(band, 64); w.start()
        def req(text, method="soup", n=30):
            return band.request(band.prompt("hello"), band.plan(parse_profile(text, band.dimensions), method), Sampling(max_tokens=n, seed=1))
        live = w.submit("a", [req("warm=1", n=300)])
        async for _ in live: break
        go_on = threading.Event(); 
        fut = asyncio.ensure_future(w.call(lambda: go_on.wait(5)))
        await asyncio.sleep(.05)
        late = w.submit("b", [req("terse=1")]); late2 = w.submit("b", [req("terse=1,warm=1","mixture-prob")]); ok = w.submit("b", [req("exact=1")])
        remove_expert(folder, "terse")
        f2 = asyncio.ensure_future(w.call(band.refresh))
        go_on.set(); await fut; await f2
        for s in (live, late, late2, ok):
            async for i, said in s:
                if said.error or said.completion: print(said.error, said.completion and len(said.completion.tokens))
        w.stop()
    asyncio.run(go())
