import { Database } from './.build/src/database/database.js'
import { dashboardSql } from './.build/src/database/sql/dashboard.js'
import { operateSql } from './.build/src/database/sql/operate.js'
import { readFileSync } from 'node:fs'
const db=new Database(process.env.U)
const sql=dashboardSql('twinbox')
const cpu=(pid)=>{const f=readFileSync(`/proc/${pid}/schedstat`,'utf8').split(' ');return Number(f[0])/1e6}
for (const sample of [10,20,30]) for (const part of ['boxes','workers'])
await db.transaction(async c=>{await c.query(sql.limitPoll);
 const {rows:[{pid}]}=await c.query('select pg_backend_pid() as pid');
 const run=()=>part==='boxes'?db.run(c,sql.boxes,{sample,most:10000,topics:20,sinceMs:2000}):db.run(c,operateSql('twinbox').workers,{limit:1000,consumer:null,kind:null})
 await run();
 const a=cpu(pid);let t=performance.now();for(let i=0;i<10;i++) await run();
 console.log(sample,part,'cpu ms',(cpu(pid)-a)/10,'wall',(performance.now()-t)/10)
})
await db.close()
