// The soak breaks networks as well, and ships: it lives there.
export { portOf, startProxy, type Direction, type Proxy } from '../../proof/stage/proxy.ts'
