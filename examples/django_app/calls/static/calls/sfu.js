/** The client modules, as the calls server serves them: page and server are always of one version. */
const from = (module) => import(new URL(`/${module}.js`, document.body.dataset.sfu).href);
const modules = ["sfu-client", "calls", "call-words", "dom", "icons", "ring", "sound", "tab-memory", "tiles"];

export const [
  { SfuClient }, { Calls }, { clock, listNames, nameOf }, { avatar }, { drawIcons, setIcon }, { Ring }, { Sound },
  { TabMemory }, { Tiles },
] = await Promise.all(modules.map(from));
