"""What Tapper's own gateway sees at the registry that TAPPER_REGISTRY_URL names: services, and where it would send."""

import asyncio
import json
import os

from tapper.gateway import TapperGateway


async def main():
    gateway = TapperGateway(os.environ["TAPPER_REGISTRY_URL"])
    await gateway._refresh_services()
    matched = gateway._match_route("/users/7", "GET")
    print(json.dumps({
        "services": {service.name: [instance.url for instance in service.instances] for service in gateway._services},
        "matched": matched and matched[0].name,
    }))
    await gateway._shutdown()


asyncio.run(main())
